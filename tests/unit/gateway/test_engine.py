"""What happens to one request, and to a few, in every way a batch can end."""

from __future__ import annotations

import pytest

from stageline.data import Tensor
from stageline.plan import Digest, DimRange, Plan, Signature, ValueSpec
from stageline.protocol import Infer, TensorSpec
from stageline_gateway import events as ev


def test_a_request_is_dispatched_along_the_path_and_answered(world):
    world.ask(value=5)
    (sent,) = world.sent
    assert [hop.node for hop in sent.header.path] == ["a", "b"]
    assert sent.address == "ipc://@a"
    assert sent.header.reply == "ipc://@g"
    assert sent.header.rows == (1,)
    assert sent.header.epoch == (1, 1)
    world.answer(sent)
    assert world.values() == bytes([7, 7])
    assert world.settled()


def test_other_hosts_are_reached_over_tcp(kit):
    world = kit.World()
    plan = kit.model_plan([["a"], ["b"]])
    far = plan.stages[0].replicas[0].endpoint.__class__("tcp://far:1", "ipc://@far", "elsewhere")
    replicas = (plan.stages[0].replicas[0].__class__("a", "a/0", far),)
    stage = plan.stages[0].__class__(0, 1, replicas, compute_s=0.01)
    world.plan_models(plan.__class__("m", plan.manifest, plan.signature, "serving", stages=(stage, plan.stages[1])))
    world.ask()
    assert [hop.address for hop in world.sent[0].header.path] == ["tcp://far:1", "tcp://b:1"]


def test_requests_that_wait_share_a_batch_and_get_their_own_rows(kit):
    world = kit.World(batch_delay_s=0.01, max_batch=8)
    world.plan([["a"]])
    for i, rows in ((1, 1), (2, 3), (3, 2)):
        world.ask(id=i, value=10 * i, rows=rows)
    assert world.sent == []
    world.advance(0.011)
    (sent,) = world.sent
    assert sent.header.rows == (1, 3, 2)
    assert sent.header.values == (Tensor("uint8", (6, 2)),)
    world.answer(sent)
    for i, rows in ((1, 1), (2, 3), (3, 2)):
        assert world.values(id=i) == bytes([10 * i + 1] * 2 * rows)
        assert world.outcome(id=i).result.batch == 6
        assert world.outcome(id=i).result.outputs == (TensorSpec("y", "uint8", (rows, 2)),)


def test_a_full_batch_does_not_wait(kit):
    world = kit.World(batch_delay_s=10.0, max_batch=4)
    world.plan([["a"]])
    for i in range(1, 5):
        world.ask(id=i)
    assert [s.header.rows for s in world.sent] == [(1, 1, 1, 1)]


def test_a_batch_leaves_work_for_the_other_stages(kit):
    world = kit.World(batch_delay_s=0.01, max_batch=8)
    world.plan([["a"], ["b"], ["c"]])
    for i in range(1, 8):
        world.ask(id=i)
    world.advance(0.011)
    assert [len(s.header.rows) for s in world.sent] == [3, 3, 1]


def test_priority_then_deadline_then_arrival(kit):
    world = kit.World(window=1, max_batch=1)
    world.plan([["a"]])
    world.ask(id=1)
    world.ask(id=2)
    world.ask(id=3, deadline_ms=5000)
    world.ask(id=4, priority=5)
    world.ask(id=5, priority=-1)
    world.ask(id=6)
    order = []
    while len(order) < 6:
        sent = world.sent[-1]
        world.answer(sent)
        order.extend(i for (_, i), o in world.outcomes.items() if i not in order and o)
    assert order == [1, 5, 3, 2, 6, 4]


def test_the_window_bounds_what_is_in_flight(world):
    for i in range(1, 9):
        world.ask(id=i)
    assert len(world.sent) == 4  # two per stage
    world.answer(world.sent[0])
    assert len(world.sent) == 5


def test_bytes_are_bounded_too_but_one_batch_always_fits(kit):
    world = kit.World(window=10, window_bytes=5, max_batch=8)
    world.plan([["a"]])
    world.ask(id=1, rows=4)
    world.ask(id=2, rows=1)
    assert len(world.sent) == 1
    world.answer(world.sent[0])
    assert len(world.sent) == 2


def test_replicas_share_the_load(kit):
    world = kit.World(max_batch=1)
    world.plan([["a"], ["b", "c"]])
    for i in range(1, 9):
        world.ask(id=i)
    assert [s.header.path[1].node for s in world.sent] == ["b", "c"] * 4


@pytest.mark.parametrize(
    ("infer", "text"),
    [
        (Infer(1, "m", ()), "inputs are 'x', got none"),
        (Infer(1, "m", (TensorSpec("z", "uint8", (1, 2)),)), "inputs are 'x', got 'z'"),
        (Infer(1, "m", (TensorSpec("x", "int8", (1, 2)),)), "'x' must be uint8, got int8"),
        (Infer(1, "m", (TensorSpec("x", "uint8", (1, 3)),)), r"shape \(batch, 2\), got \(1, 3\)"),
        (Infer(1, "m", (TensorSpec("x", "uint8", (2,)),)), r"shape \(batch, 2\), got \(2,\)"),
        (Infer(1, "m", (TensorSpec("x", "uint8", (65, 2)),)), "batch must be from 1 to 64, got 65"),
        (Infer(1, "m", (TensorSpec("x", "uint8", (0, 2)),)), "batch must be from 1 to 64, got 0"),
        (Infer(1, "m", (TensorSpec("x", "uint8", (2, 2)),)), "needs 4 bytes, got 2"),
        (Infer(1, "m", (TensorSpec("x", "uint8", (1, 2)),), deadline_ms=float("nan")), "deadline_ms must be a number"),
    ],
)
def test_invalid_inputs_are_refused_by_name(world, infer, text):
    world.feed(ev.RequestArrived(1, infer, [b"ab"]))
    assert world.code() == "invalid_input"
    with pytest.raises(type(world.outcome().error), match=text):
        raise world.outcome().error
    assert world.settled()


def test_an_unknown_model_is_refused_with_the_known_ones(world):
    world.ask(model="nope")
    assert world.code() == "model_not_found"
    assert "known: m" in world.outcome().error.message


def test_without_a_plan_nothing_is_accepted(kit):
    world = kit.World()
    world.ask()
    assert world.code() == "unavailable"


def test_an_id_in_flight_cannot_be_used_again(world):
    world.ask(id=1)
    world.ask(id=1)
    assert [type(o) for o in world.others] == [ev.Disconnect]
    assert world.outcome() is None


def test_accepted_is_sent_when_wanted(world):
    world.ask(id=3, want_accepted=True)
    assert world.others == [ev.Accept(1, 3)]


def test_a_full_table_refuses_with_a_time_to_come_back(kit):
    world = kit.World(max_in_flight=2)
    world.plan([["a"]])
    for i in (1, 2, 3):
        world.ask(id=i)
    assert world.code(id=3) == "rejected"
    assert world.outcome(id=3).error.retry_after_s > 0
    world.answer(world.sent[0])
    world.ask(id=4)
    assert world.code(id=4) == "none"


def test_a_table_full_of_bytes_refuses(kit):
    world = kit.World(max_in_flight_bytes=7)
    world.plan([["a"]])
    world.ask(id=1, rows=3)
    world.ask(id=2)
    assert world.code(id=2) == "rejected"


class TestDeadlines:
    def test_in_the_queue(self, kit):
        world = kit.World(window=1)
        world.plan([["a"]])
        world.ask(id=1)
        world.ask(id=2, deadline_ms=50)
        world.advance(0.051)
        assert world.code(id=2) == "deadline"
        assert world.code(id=1) == "none"

    def test_while_computed_and_the_late_result_is_dropped(self, world):
        world.ask(deadline_ms=50)
        world.advance(0.051)
        assert world.code() == "deadline"
        assert world.engine.idle
        assert world.engine.credits_held != (0, 0)
        world.answer(world.sent[0])
        assert world.settled()
        assert world.code() == "deadline"

    def test_already_past_is_told_at_once(self, world):
        world.ask(deadline_ms=-5)
        assert world.code() == "deadline"
        assert "passed 5 ms before" in world.outcome().error.message
        assert world.sent == []
        assert world.settled()

    def test_the_default(self, kit):
        world = kit.World(default_deadline_s=3.0)
        world.plan([["a"]])
        world.state(a="suspect")
        world.ask()
        world.advance(2.9)
        assert world.code() == "none"
        world.advance(0.2)
        assert world.code() == "unavailable"

    def test_an_unavailable_model_waits_then_says_why(self, kit):
        world = kit.World()
        world.plan([], status="unavailable", reason="needs 90 MiB more")
        world.ask(deadline_ms=500)
        world.advance(0.4)
        assert world.code() == "none"
        world.advance(0.2)
        assert world.code() == "unavailable"
        assert "needs 90 MiB more" in world.outcome().error.message

    def test_service_resumes_when_a_worker_joins(self, kit):
        world = kit.World()
        world.plan([], status="unavailable", reason="no workers")
        world.ask(deadline_ms=5000)
        world.advance(1)
        world.plan([["a"]])
        world.answer(world.sent[0])
        assert world.code() == "result"


class TestDeath:
    def test_requests_on_a_dead_path_are_dispatched_again(self, kit):
        world = kit.World()
        world.plan([["a", "c"], ["b"]])
        world.ask(id=1)
        world.ask(id=2)
        on_a = next(s for s in world.sent if s.header.path[0].node == "a")
        world.state(a="gone")
        assert world.sent[-1].header.ids == on_a.header.ids
        assert world.sent[-1].header.path[0].node == "c"
        assert world.sent[-1].header.attempt == 2
        for sent in world.sent[1:]:
            world.answer(sent)
        assert world.code(id=1) == world.code(id=2) == "result"
        assert world.engine.stats.retried == 1
        assert world.settled()

    def test_they_wait_when_no_path_is_left(self, world):
        world.ask()
        world.state(b="gone")
        assert len(world.sent) == 1
        world.advance(1)
        world.plan([["a"], ["c"]])
        world.answer(world.sent[1])
        assert world.code() == "result"
        assert world.outcome().result.attempts == 2

    def test_a_restarted_executor_is_not_the_one_of_the_plan(self, world, kit):
        world.ask()
        view = kit.views({"a": "alive"})[0].__class__("a", "i2", "alive", ("a/1",))
        world.sequence += 1
        world.feed(ev.DigestApplied(Digest(1, 1, world.sequence, (view, *kit.views({"b": "alive"})))))
        assert world.engine.in_flight_bytes == 2
        assert world.engine.credits_held == (0, 0)

    def test_suspects_get_nothing_new_but_may_answer(self, world):
        world.ask(id=1)
        world.state(a="suspect")
        world.ask(id=2)
        assert len(world.sent) == 1
        world.answer(world.sent[0])
        assert world.code(id=1) == "result"
        world.state(a="alive")
        assert len(world.sent) == 2

    def test_a_result_that_was_under_way_still_wins(self, world):
        world.ask()
        world.state(b="gone")
        world.answer(world.sent[0])
        assert world.code() == "result"
        assert world.settled()

    def test_draining_nodes_are_used_only_if_there_is_no_other(self, kit):
        world = kit.World()
        world.plan([["a", "b"]])
        world.state(a="draining")
        world.ask(id=1)
        world.ask(id=2)
        assert {s.header.path[0].node for s in world.sent} == {"b"}
        world.state(b="gone")
        assert {s.header.path[0].node for s in world.sent[2:]} == {"a"}


class TestFailures:
    def test_retryable_goes_again_after_a_pause(self, world):
        world.ask()
        world.fail(world.sent[0], retryable=True)
        assert len(world.sent) == 1
        assert world.engine.credits_held == (0, 0)
        world.advance(0.06)
        world.answer(world.sent[1])
        assert world.code() == "result"
        assert world.settled()

    def test_not_retryable_ends_the_request_with_the_node(self, world):
        world.ask()
        world.fail(world.sent[0], retryable=False, node="b")
        assert world.code() == "failed"
        assert world.outcome().error.node == "b"
        assert world.settled()

    def test_clients_are_told_the_model_and_not_its_digest(self, world):
        world.ask()
        key = world.sent[0].header.path[1].stage
        world.fail(world.sent[0], retryable=False, text=f"stage {key} failed: out of range")
        assert world.outcome().error.message == "stage 1 of 'm' failed: out of range"

    def test_the_deadline_found_by_an_executor_is_a_deadline(self, world):
        world.ask()
        world.fail(world.sent[0], retryable=False, code="deadline")
        assert world.code() == "deadline"

    def test_batch_mates_of_a_failing_request_are_not_failed(self, kit):
        world = kit.World(batch_delay_s=0.01)
        world.plan([["a"]])
        for i in (1, 2):
            world.ask(id=i, value=i)
        world.advance(0.02)
        world.fail(world.sent[0], retryable=False)
        assert [s.header.rows for s in world.sent[1:]] == [(1,), (1,)]
        world.fail(world.sent[1], retryable=False)
        world.answer(world.sent[2])
        assert (world.code(id=1), world.code(id=2)) == ("failed", "result")

    def test_attempts_are_bounded(self, kit):
        world = kit.World(max_attempts=3)
        world.plan([["a"]])
        world.ask()
        for i in range(3):
            world.fail(world.sent[i], retryable=True)
            world.advance(1)
        assert len(world.sent) == 3
        assert world.code() == "failed"
        assert "3 times" in world.outcome().error.message

    def test_a_failure_of_an_unknown_batch_is_dropped(self, world):
        world.ask()
        world.fail(world.sent[0], retryable=True)
        world.fail(world.sent[0], retryable=False)
        assert world.code() == "none"
        assert world.engine.stats.results_dropped == 1


class TestOverdue:
    def test_it_is_sent_again_and_the_first_result_wins(self, world):
        world.ask()
        world.advance(2.1)
        assert len(world.sent) == 2
        world.answer(world.sent[0])
        assert world.code() == "result"
        assert world.engine.credits_held != (0, 0)
        world.answer(world.sent[1])
        assert world.settled()
        assert world.engine.stats.overdue == 1

    def test_a_bad_late_result_does_not_disturb_the_second_try(self, world):
        world.ask()
        world.advance(2.1)
        world.answer(world.sent[0], rows=(9,))
        world.advance(0.2)
        assert len(world.sent) == 2
        world.answer(world.sent[1])
        assert world.code() == "result"
        assert world.settled()

    def test_a_tick_that_comes_early_is_asked_for_again(self, world):
        world.ask()
        asked, world.wake = world.wake, None
        world.feed(ev.Tick())
        assert world.wake == asked

    def test_another_replica_is_tried(self, kit):
        world = kit.World()
        world.plan([["a", "b"]])
        world.ask()
        first = world.sent[0].header.path[0].node
        world.advance(2.1)
        assert world.sent[1].header.path[0].node != first

    def test_patience_doubles(self, world):
        world.ask(deadline_ms=60_000)
        world.advance(2.1)
        world.advance(3.8)
        assert len(world.sent) == 2
        world.advance(0.3)
        assert len(world.sent) == 3


class TestResults:
    def test_of_another_incarnation_are_dropped(self, world):
        world.ask()
        world.answer(world.sent[0], gateway="g/0")
        assert world.code() == "none"
        assert world.engine.stats.results_dropped == 1

    def test_twice_the_same(self, world):
        world.ask()
        world.answer(world.sent[0])
        world.answer(world.sent[0])
        assert world.code() == "result"
        assert world.engine.stats.results_dropped == 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"ids": (99,)},
            {"rows": (2,)},
            {"values": (Tensor("uint8", (2, 2)),)},
            {"values": (Tensor("int8", (1, 2)),)},
            {"values": ()},
            {"values": (Tensor("uint8", (1, 2, 1)),)},
        ],
    )
    def test_that_do_not_fit_are_refused_and_computed_again(self, world, changes):
        world.ask()
        world.answer(world.sent[0], **changes)
        assert world.code() == "none"
        assert world.engine.stats.results_refused == 1
        world.advance(0.1)
        world.answer(world.sent[1])
        assert world.code() == "result"
        assert world.settled()

    def test_an_output_without_a_batch_dimension_is_given_to_each(self, kit):
        signature = Signature(
            inputs=(ValueSpec("x", "uint8", ("batch", 2)),),
            outputs=(ValueSpec("y", "uint8", ("batch", 2)), ValueSpec("w", "uint8", (3,))),
            dims={"batch": DimRange(1, 64, 1)},
        )
        world = kit.World(max_batch=2)
        world.plan([["a"]], signature=signature)
        world.ask(id=1, value=1)
        world.ask(id=2, value=2)
        for sent in world.sent:
            event = world.result(sent, values=(Tensor("uint8", (1, 2)), Tensor("uint8", (3,))))
            world.feed(ev.ResultArrived(event.header, [*event.buffers, b"abc"]))
        assert [bytes(world.outcome(id=i).buffers[1]) for i in (1, 2)] == [b"abc", b"abc"]


class TestPlans:
    def test_older_or_equal_plans_change_nothing(self, world, kit):
        world.feed(ev.PlanApplied(Plan(1, 1, ())))
        world.feed(ev.PlanApplied(Plan(0, 9, ())))
        world.ask()
        assert len(world.sent) == 1

    def test_requests_in_flight_stay_on_their_epoch(self, world):
        world.ask(id=1)
        world.plan([["c"]])
        world.ask(id=2)
        assert [s.header.epoch for s in world.sent] == [(1, 1), (1, 2)]
        assert world.engine.oldest_in_flight == (1, 1)
        world.answer(world.sent[0])
        assert world.engine.oldest_in_flight == (1, 2)
        world.answer(world.sent[1])
        assert world.engine.oldest_in_flight is None

    def test_addresses_are_kept_while_something_is_on_its_way_there(self, world):
        world.ask()
        world.plan([["c"]])
        assert world.engine.entrances() == {"ipc://@a", "ipc://@c"}
        world.answer(world.sent[0])
        assert world.engine.entrances() == {"ipc://@c"}

    def test_paths_begin_at_first_stages_and_everybody_is_watched(self, world):
        world.plan([["a"], ["b"], ["c"]])
        assert world.engine.entrances() == {"ipc://@a"}
        assert world.engine.addresses() == {"ipc://@a", "ipc://@b", "ipc://@c"}

    def test_leftovers_of_an_old_plan_are_dispatched_again(self, kit):
        world = kit.World(drain_s=1.0)
        world.plan([["a"]])
        world.ask()
        world.plan([["b"]])
        world.advance(1.1)
        assert [s.header.path[0].node for s in world.sent] == ["a", "b"]

    def test_a_digest_of_a_newer_plan_asks_for_it(self, world, kit):
        world.feed(ev.DigestApplied(Digest(1, 5, 1, kit.views({"a": "alive", "b": "alive"}))))
        assert world.others == [ev.FetchPlan()]

    def test_a_restarted_coordinator_that_knows_nobody_yet_disturbs_nothing(self, world):
        world.ask(id=1)
        world.feed(ev.DigestApplied(Digest(2, 0, 1, ())))
        world.ask(id=2)
        assert len(world.sent) == 2
        for sent in world.sent:
            world.answer(sent)
        assert world.code(id=1) == world.code(id=2) == "result"

    def test_an_old_digest_is_not_applied_after_a_newer(self, world, kit):
        world.state(a="gone")
        world.feed(ev.DigestApplied(Digest(1, 1, 0, kit.views({"a": "alive", "b": "alive"}))))
        world.ask()
        assert world.sent == []

    def test_a_removed_model_ends_what_waits_for_it(self, world, kit):
        world.state(a="suspect")
        world.ask()
        world.plan_models(kit.model_plan([["b"]], name="other"))
        assert world.code() == "model_not_found"

    def test_a_replaced_model_is_checked_again(self, world):
        world.state(a="suspect")
        world.ask()
        other = Signature((ValueSpec("x", "uint8", ("batch", 3)),), (ValueSpec("y", "uint8", ("batch", 3)),))
        world.plan([["b"]], signature=other, manifest="cd" * 32)
        assert world.code() == "invalid_input"


class TestClients:
    def test_cancel_in_the_queue_and_in_flight(self, kit):
        world = kit.World(window=1)
        world.plan([["a"]])
        world.ask(id=1)
        world.ask(id=2)
        world.feed(ev.CancelRequested(1, 2))
        world.feed(ev.CancelRequested(1, 1))
        world.feed(ev.CancelRequested(1, 77))
        assert world.code(id=1) == world.code(id=2) == "cancelled"
        world.answer(world.sent[0])
        assert len(world.sent) == 1
        assert world.settled()

    def test_a_client_that_goes_away_leaves_nothing_behind(self, world):
        for i in range(1, 10):
            world.ask(client=1, id=i)
        world.ask(client=2, id=1)
        world.feed(ev.ClientGone(1))
        for sent in list(world.sent):
            world.answer(sent)
        world.answer(world.sent[-1])
        assert world.code(client=2) == "result"
        assert world.settled()

    def test_draining(self, world):
        world.ask(id=1)
        world.feed(ev.DrainBegan())
        world.ask(id=2)
        assert world.code(id=2) == "rejected"
        world.answer(world.sent[0])
        assert world.code(id=1) == "result"

    def test_what_draining_leaves_is_answered(self, world):
        world.ask(id=1)
        world.feed(ev.DrainBegan())
        world.feed(ev.DrainEnded())
        assert world.code(id=1) == "unavailable"
