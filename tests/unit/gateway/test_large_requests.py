"""A request of more items than memory is planned for at once: in parts, with one outcome, or refused with the limit."""

from __future__ import annotations

import pytest

from stageline.data import Tensor
from stageline.plan import DimRange, Signature, ValueSpec
from stageline.protocol import Infer, TensorSpec
from stageline_gateway import events as ev

ROWS = 20
DATA = bytes(range(2 * ROWS))


@pytest.fixture
def world(kit):
    made = kit.World(max_batch=8)
    made.plan([["a"], ["b"]])
    return made


def ask(world, id=1, data=DATA, **more):
    infer = Infer(id, "m", (TensorSpec("x", "uint8", (len(data) // 2, 2)),), **more)
    world.feed(ev.RequestArrived(1, infer, [data]))


def test_it_is_computed_in_parts_and_answered_whole(world):
    ask(world, want_timings=True)
    assert [sent.header.rows for sent in world.sent] == [(7,), (7,), (6,)]
    for sent in (world.sent[2], world.sent[0]):
        world.answer(sent)
    assert world.outcome() is None
    world.advance(0.5)
    world.answer(world.sent[1])
    assert world.values() == bytes(byte + 2 for byte in DATA)
    result = world.outcome().result
    assert [(o.name, o.shape) for o in result.outputs] == [("y", (ROWS, 2))]
    assert (result.batch, result.attempts) == (7, 1)
    assert result.timings.total_us == 500_000
    assert world.settled()


def test_other_requests_share_the_batch_of_a_part(kit):
    world = kit.World(max_batch=8, batch_delay_s=0.01)
    world.plan([["a"]])
    ask(world)
    world.ask(id=2, value=200)
    world.advance(0.02)
    for sent in world.sent:
        world.answer(sent)
    assert world.values() == bytes(byte + 1 for byte in DATA)
    assert world.values(id=2) == bytes([201] * 2)
    assert max(len(sent.header.ids) for sent in world.sent) == 2


def test_only_the_part_that_was_lost_is_computed_again(world):
    ask(world)
    world.fail(world.sent[1], retryable=True)
    world.advance(0.1)
    assert len(world.sent) == 4
    for sent in (world.sent[0], world.sent[2], world.sent[3]):
        world.answer(sent)
    assert world.values() == bytes(byte + 2 for byte in DATA)
    assert world.outcome().result.attempts == 2
    assert world.settled()


def test_a_part_that_fails_ends_it_once(world):
    ask(world)
    world.answer(world.sent[0])
    world.fail(world.sent[1], retryable=False)
    assert world.code() == "failed"
    world.fail(world.sent[2], retryable=False)
    assert world.settled()


@pytest.mark.parametrize(
    ("event", "code"),
    [(ev.CancelRequested(1, 1), "cancelled"), (ev.ClientGone(1), "cancelled"), (ev.DrainEnded(), "unavailable")],
)
def test_it_is_given_up_as_one(world, event, code):
    ask(world)
    world.answer(world.sent[0])
    world.feed(event)
    assert world.code() == code
    assert world.engine.idle


def test_its_deadline_ends_it_once(world):
    ask(world, deadline_ms=300.0)
    world.answer(world.sent[0])
    world.advance(0.4)
    assert world.code() == "deadline"
    assert world.engine.idle


def test_it_counts_as_one_request_and_frees_its_place_as_one(kit):
    world = kit.World(max_batch=8, max_in_flight=1)
    world.plan([["a"]])
    ask(world)
    world.answer(world.sent[0])
    world.ask(id=2)
    assert world.code(id=2) == "rejected"
    for sent in world.sent[1:]:
        world.answer(sent)
    assert world.code(id=1) == "result"
    world.ask(id=3)
    assert world.code(id=3) == "none"


def test_an_idempotency_key_covers_all_of_it(world):
    ask(world, idempotency_key="k", deadline_ms=300.0)
    ask(world, id=2, idempotency_key="k", deadline_ms=900.0)
    assert len(world.sent) == 3
    world.advance(0.5)
    assert (world.code(id=1), world.code(id=2)) == ("deadline", "none")
    for sent in world.sent:
        world.answer(sent)
    assert world.values(id=2) == bytes(byte + 2 for byte in DATA)


def test_answers_of_two_models_are_not_joined(world):
    ask(world)
    world.answer(world.sent[0])
    world.plan([["a"]], manifest="cd" * 32)
    world.fail(world.sent[1], retryable=True)
    world.advance(0.1)
    assert len(world.sent) == 4
    world.answer(world.sent[3])
    assert world.code() == "unavailable"
    assert "the model was replaced" in world.outcome().error.message
    assert world.outcome().error.retry_after_s > 0


def test_parts_whose_answers_differ_in_shape_are_not_joined(kit):
    signature = Signature(
        (ValueSpec("x", "uint8", ("batch", 2)),), (ValueSpec("y", "uint8", ("batch", "found")),),
        {"batch": DimRange(1, 64, 1)},
    )  # fmt: skip
    world = kit.World(max_batch=8)
    world.plan([["a"]], signature=signature)
    ask(world, data=DATA[:32])
    for sent, found in zip(world.sent, (2, 3), strict=True):
        event = world.result(sent, values=(Tensor("uint8", (8, found)),))
        world.feed(ev.ResultArrived(event.header, [bytes(8 * found)]))
    assert world.code() == "failed"
    assert "output 'y' has another shape for some of the items" in world.outcome().error.message


@pytest.mark.parametrize(
    ("outputs", "batch"),
    [
        ((ValueSpec("mean", "uint8", (2,)),), DimRange(1, 64, 1)),
        ((ValueSpec("y", "uint8", ("batch", "batch")),), DimRange(1, 64, 1)),
        ((ValueSpec("y", "uint8", ("batch", 2)),), DimRange(7, 64, 7)),
    ],
)
def test_what_cannot_be_joined_is_refused_with_the_limit(kit, outputs, batch):
    world = kit.World(max_batch=8)
    signature = Signature((ValueSpec("x", "uint8", ("batch", 2)),), outputs, {"batch": batch})
    world.plan([["a"]], signature=signature)
    ask(world)
    assert world.code() == "invalid_input"
    assert "batch must be at most 8 at these sizes, got 20" in world.outcome().error.message
    assert "raise max_batch of the gateway" in world.outcome().error.message


LONG = Signature(
    (ValueSpec("x", "uint8", ("batch", "sequence")),), (ValueSpec("y", "uint8", ("batch", "sequence")),),
    {"batch": DimRange(1, 64, 1), "sequence": DimRange(1, 1000, 10)},
)  # fmt: skip


def test_longer_items_come_in_smaller_batches(kit):
    world = kit.World(max_batch=8)
    world.plan([["a"]], signature=LONG)
    infer = Infer(1, "m", (TensorSpec("x", "uint8", (3, 40)),))
    world.feed(ev.RequestArrived(1, infer, [bytes(120)]))
    assert [sent.header.rows for sent in world.sent] == [(2,), (1,)]


def test_an_item_that_is_larger_than_all_that_is_planned_for_is_refused(kit):
    world = kit.World(max_batch=8)
    world.plan([["a"]], signature=LONG)
    infer = Infer(1, "m", (TensorSpec("x", "uint8", (1, 81)),))
    world.feed(ev.RequestArrived(1, infer, [bytes(81)]))
    assert world.code() == "invalid_input"
    assert "sequence 81 (nominal: 10) is larger than 8 items" in world.outcome().error.message
