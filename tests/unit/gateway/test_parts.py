"""The engine's parts on their own: table, queue, batches, signatures, timers, plan view."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from stageline.errors import InvalidInputError
from stageline.plan import Digest, DimRange, Plan, Signature, ValueSpec
from stageline.protocol import TensorSpec
from stageline_gateway.batching import patience
from stageline_gateway.inflight import TRANSITIONS, Entry, IllegalTransitionError, InFlightTable, Request, State
from stageline_gateway.queueing import ModelQueue, Waiting
from stageline_gateway.routing import Applied, PlanView, Router, addresses, hops
from stageline_gateway.signature import batchable, check_inputs, check_outputs, divisible, largest_batch
from stageline_gateway.timers import Timer, Timers
from stageline_gateway.whole import part_sizes


def request(number: int = 1) -> Request:
    specs = (TensorSpec("x", "uint8", (1, 2)),)
    return Request(1, number, "m", "ab", specs, (b"ab",), 1, {"batch": 1}, 0.0, 1.0, nbytes=2)


class TestTable:
    def test_only_the_listed_transitions_are_possible(self):
        moves = {State.QUEUED: "requeue", State.DISPATCHED: "dispatch", State.DONE: "leave"}
        for start, end in itertools.product(State, State):
            table = InFlightTable(10, 100)
            entry = table.add_parts([request()], 0.1)[0]
            entry.state = start
            move = getattr(table, moves[end])
            arguments = (entry, 1) if end is State.DISPATCHED else (entry,)
            if end in TRANSITIONS[start]:
                move(*arguments)
                assert entry.state is end
            else:
                with pytest.raises(IllegalTransitionError):
                    move(*arguments)

    def test_leaving_frees_the_id_and_the_bytes(self):
        table = InFlightTable(10, 100)
        entry = table.add_parts([request(5)], 0.1)[0]
        assert table.find(1, 5) is entry
        assert table.nbytes == 2
        table.leave(entry)
        assert (table.find(1, 5), table.nbytes, len(table), table.of_client(1)) == (None, 0, 0, [])

    def test_rank_does_not_change_with_a_retry(self):
        table = InFlightTable(10, 100)
        entry = table.add_parts([request()], 0.1)[0]
        before = entry.rank
        table.dispatch(entry, 1)
        table.requeue(entry)
        assert entry.rank == before
        assert (entry.attempts, entry.current, entry.batches) == (1, 0, {1})
        assert isinstance(entry, Entry)


def waiting(key: int, *, priority: int = 0, rows: int = 1, since: float = 0.0, limit: int = 4, alone: bool = False):
    return Waiting((priority, 0.0, key), key, rows, since, limit, alone)


class TestQueue:
    def test_only_one_group_per_batch(self):
        queue = ModelQueue(1.0)
        queue.push("long", waiting(1))
        queue.push("short", waiting(2))
        queue.push("long", waiting(3))
        assert queue.next_batch(0.5, 100) == []
        assert queue.wake_at(0.5) == 1.0
        assert [w.key for w in queue.next_batch(1.0, 100)] == [1, 3]

    def test_a_ready_group_does_not_wait_for_a_better_one(self):
        queue = ModelQueue(1.0)
        queue.push("a", waiting(1, priority=-1))
        queue.push("b", waiting(2, limit=2))
        queue.push("b", waiting(3, limit=2))
        assert [w.key for w in queue.next_batch(0.0, 100)] == [2, 3]

    def test_the_delay_counts_from_the_first(self):
        queue = ModelQueue(1.0)
        queue.push("a", waiting(1, since=0.0))
        queue.push("a", waiting(2, since=0.9, priority=-1))
        assert [w.key for w in queue.next_batch(1.0, 100)] == [2, 1]

    def test_a_suspect_shares_no_batch(self):
        queue = ModelQueue(1.0)
        queue.push("a", waiting(1))
        queue.push("a", waiting(2, alone=True))
        queue.push("a", waiting(3))
        assert [w.key for w in queue.next_batch(0.0, 100)] == [1]
        queue.remove(1)
        assert [w.key for w in queue.next_batch(0.0, 100)] == [2]

    def test_too_large_for_a_batch_goes_alone(self):
        queue = ModelQueue(1.0)
        queue.push("a", waiting(1, rows=9))
        assert [w.key for w in queue.next_batch(0.0, 100)] == [1]

    def test_removing_empties_it(self):
        queue = ModelQueue(1.0)
        for key in (1, 2):
            queue.push("a", waiting(key))
        queue.remove(2)
        queue.remove(2)
        queue.remove(1)
        assert not len(queue)
        assert (queue.next_batch(9.0, 100), queue.wake_at(0.0)) == ([], None)


TEXT = Signature(
    inputs=(ValueSpec("ids", "int64", ("batch", "sequence")), ValueSpec("mask", "int64", ("batch", "sequence"))),
    outputs=(ValueSpec("logits", "float32", ("batch", "sequence", 7)), ValueSpec("pairs", "int8", ("2*sequence",))),
    dims={"batch": DimRange(1, 8, 1), "sequence": DimRange(2, 16, 8)},
)


def text(ids: tuple[int, ...], mask: tuple[int, ...]) -> list[TensorSpec]:
    return [TensorSpec("mask", "int64", mask), TensorSpec("ids", "int64", ids)]


class TestSignature:
    def test_inputs_are_put_in_order_and_sizes_found(self):
        assert check_inputs(TEXT, text((2, 5), (2, 5))) == ([1, 0], {"batch": 2, "sequence": 5})

    @pytest.mark.parametrize(
        ("ids", "mask", "message"),
        [
            ((2, 5), (2, 6), "'mask' has sequence 6, but another input has sequence 5"),
            ((2, 17), (2, 17), "sequence must be from 2 to 16, got 17"),
            ((2, 1), (2, 1), "sequence must be from 2 to 16, got 1"),
            ((9, 5), (9, 5), "batch must be from 1 to 8, got 9"),
        ],
    )
    def test_inconsistent_or_out_of_range(self, ids, mask, message):
        with pytest.raises(InvalidInputError, match=message):
            check_inputs(TEXT, text(ids, mask))

    def test_expressions_are_evaluated(self):
        from stageline.data import Tensor

        sizes = {"batch": 2, "sequence": 5}
        good = (Tensor("float32", (2, 5, 7)), Tensor("int8", (10,)))
        assert check_outputs(TEXT, good, sizes) == ""
        assert "pairs" in check_outputs(TEXT, (good[0], Tensor("int8", (11,))), sizes)
        assert "logits" in check_outputs(TEXT, (Tensor("float32", (3, 5, 7)), good[1]), sizes)

    def test_twice_the_same_input(self):
        with pytest.raises(InvalidInputError, match="got 'ids', 'ids'"):
            check_inputs(TEXT, [TensorSpec("ids", "int64", (1, 2))] * 2)

    @pytest.mark.parametrize(
        ("inputs", "outputs", "expected"),
        [
            (("batch", 3), ("batch", 3), True),
            ((1, 3), (1, 3), False),
            (("batch", 3), ("batch", "batch"), False),
            (("batch", 3), ("2*batch", 3), False),
            (("batch", 3), (3,), True),
            (("batch", 3), (), True),
        ],
    )
    def test_what_can_share_a_batch(self, inputs, outputs, expected):
        made = Signature((ValueSpec("x", "int8", inputs),), (ValueSpec("y", "int8", outputs),))
        assert batchable(made) is expected

    def test_the_model_limits_the_batch(self):
        assert largest_batch(TEXT, 100, {"sequence": 8}) == 8
        assert largest_batch(TEXT, 3, {"sequence": 2}) == 3

    @pytest.mark.parametrize(("limit", "sequence", "expected"), [(4, 8, 4), (4, 9, 3), (4, 16, 2), (1, 9, 0)])
    def test_longer_items_share_the_memory_of_shorter_ones(self, limit, sequence, expected):
        assert largest_batch(TEXT, limit, {"batch": 3, "sequence": sequence}) == expected

    def test_what_memory_takes_by_an_output_that_grows_faster_counts(self):
        square = Signature(
            (ValueSpec("x", "int8", ("batch", "n")),), (ValueSpec("y", "int8", ("batch", "n*n")),),
            {"n": DimRange(1, 9, 3)},
        )  # fmt: skip
        assert largest_batch(square, 8, {"n": 6}) == 2

    def test_only_outputs_with_the_batch_can_be_joined(self):
        assert divisible(Signature(TEXT.inputs, TEXT.outputs[:1], TEXT.dims))
        assert batchable(TEXT) and not divisible(TEXT)


@pytest.mark.parametrize(
    ("rows", "limit", "sizes"), [(9, 8, [5, 4]), (16, 8, [8, 8]), (20, 8, [7, 7, 6]), (3, 1, [1, 1, 1])]
)
def test_parts_are_few_and_equal(rows, limit, sizes):
    assert part_sizes(rows, limit) == sizes


def test_timers_come_due_in_order():
    timers = Timers()
    for time, key in ((3.0, 3), (1.0, 1), (2.0, 2)):
        timers.add(time, Timer.DEADLINE, key)
    assert timers.next() == 1.0
    assert timers.due(2.0) == [(Timer.DEADLINE, 1), (Timer.DEADLINE, 2)]
    timers.keep(lambda what, key: key != 3)
    assert timers.next() is None


class TestView:
    def test_a_digest_that_came_before_its_plan_knows_better(self, kit):
        view = PlanView()
        model = kit.model_plan([["a"]])
        assert view.apply_digest(Digest(1, 1, 5, kit.views({"a": "gone"}))) is Applied.BEHIND
        assert view.apply_plan(Plan(1, 1, (model,), kit.views({"a": "alive"}))) is Applied.CHANGED
        assert "stage 1 of 1" in view.obstacle(model)

    def test_a_new_term_wins_over_any_version(self, kit):
        view = PlanView()
        assert view.apply_plan(Plan(1, 9)) is Applied.CHANGED
        assert view.apply_plan(Plan(2, 1)) is Applied.CHANGED
        assert view.apply_plan(Plan(1, 10)) is Applied.STALE
        assert view.epoch == (2, 1)

    def test_addresses(self, kit):
        plan = Plan(1, 1, (kit.model_plan([["a", "b"], ["c"]]), kit.model_plan([], status="unavailable", name="n")))
        assert addresses(plan, "here") == {f"ipc://@{node}": (node, f"{node}/0") for node in "abc"}
        assert addresses(plan, "there") == {f"tcp://{node}:1": (node, f"{node}/0") for node in "abc"}

    def test_a_path_says_how_each_hop_is_coded(self, kit):
        model = kit.model_plan([["a"], ["b"]])
        first, second = model.stages
        model = msgspec.structs.replace(model, stages=(first, msgspec.structs.replace(second, codec="int8")))
        path = (first.replicas[0], second.replicas[0])
        assert [hop.codec for hop in hops(model, path, "here")] == ["", "int8"]

    def test_a_narrow_stage_carries_what_the_wide_one_can_take(self, kit):
        view = PlanView()
        model = kit.model_plan([["a"], ["b", "c"]])
        view.apply_plan(Plan(1, 1, (model,), kit.views({"a": "alive", "b": "alive", "c": "alive"})))
        router = Router(view, window=2, window_bytes=1 << 20)
        taken = 0
        while (path := router.find(model, 1, 0.0)) is not None:
            router.take(model, path, 1)
            taken += 1
        assert taken == 4
        assert router.held == (8, 8)


def test_patience_grows_with_work_ahead_attempts_and_bytes(kit):
    model = kit.model_plan([["a"], ["b"]])
    base = patience(model, 1, 0, 1)
    assert 2.0 <= base < 2.1
    assert patience(model, 1, 0, 2) == 2 * base
    assert patience(model, 8, 9, 1) >= 10 * 0.02 * 8 * 10
