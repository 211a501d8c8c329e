"""A gateway that has just started has no plan yet: requests wait for it, each ends once, and none waits for long."""

from __future__ import annotations

import pytest

from stageline.protocol import Infer, Result, TensorSpec
from stageline_gateway import events as ev
from stageline_gateway.held import Answered
from stageline_gateway.inflight import State

SPECS = (TensorSpec("x", "uint8", (1, 2)),)


@pytest.fixture
def fresh(kit):
    return kit.World(started=100.0)


def accepted(world):
    return [do.id for do in world.others if isinstance(do, ev.Accept)]


def nothing_left(world):
    """Also at the bound, and when a plan comes."""
    assert world.settled()
    world.advance(10.0)
    world.plan([["a"]])
    assert world.sent == []
    return all(len(found) == 1 for found in world.outcomes.values())


class TestUntilThePlanComes:
    def test_they_wait_and_are_begun_in_order_with_their_own_times(self, fresh):
        for number, deadline_ms in ((1, 9000), (2, 9000), (3, 9000)):
            fresh.ask(id=number, value=number, deadline_ms=deadline_ms, want_accepted=True)
        fresh.advance(4.0)
        assert (fresh.outcomes, fresh.others) == ({}, [])
        fresh.plan([["a"]])
        assert accepted(fresh) == [1, 2, 3]
        assert b"".join(bytes(part) for sent in fresh.sent for part in sent.buffers) == bytes([1, 1, 2, 2, 3, 3])
        fresh.state(a="gone")
        fresh.advance(4.9)
        assert fresh.code() == "none"
        fresh.advance(0.2)
        assert [fresh.code(id=number) for number in (1, 2, 3)] == ["unavailable", "unavailable", "unavailable"]
        assert fresh.outcome().seconds == pytest.approx(9.0)

    def test_they_are_answered(self, fresh):
        fresh.ask(value=7)
        fresh.advance(1.5)
        fresh.plan([["a"], ["b"]])
        fresh.advance(0.5)
        fresh.answer(fresh.sent[0])
        assert fresh.values() == bytes([9, 9])
        assert fresh.outcome().seconds == pytest.approx(2.0)
        assert fresh.settled()

    def test_what_is_wrong_with_them_is_said_then(self, fresh):
        fresh.ask(id=1, model="other")
        fresh.ask(id=2, rows=65)
        fresh.advance(1.0)
        fresh.plan([["a"]])
        assert [fresh.code(id=number) for number in (1, 2)] == ["model_not_found", "invalid_input"]
        assert fresh.outcome(id=1).seconds == pytest.approx(1.0)
        assert (fresh.outcome(id=1).model, fresh.outcome(id=2).model) == ("", "m")
        assert fresh.settled()

    def test_they_count_as_in_flight(self, fresh):
        fresh.ask(rows=3)
        engine = fresh.engine
        assert (engine.idle, engine.in_flight_bytes, engine.queue_depths) == (False, 6, {})
        assert engine.in_flight == {State.QUEUED: 1, State.DISPATCHED: 0}

    def test_an_id_that_waits_is_not_to_be_used_again(self, fresh):
        fresh.ask(id=1)
        fresh.ask(id=1)
        assert [type(do) for do in fresh.others] == [ev.Disconnect]


class TestBounds:
    def test_as_many_wait_as_may_be_in_flight(self, kit):
        world = kit.World(started=100.0, max_in_flight=2)
        for number in (1, 2, 3):
            world.ask(id=number)
        assert [world.code(id=number) for number in (1, 2, 3)] == ["none", "none", "rejected"]
        assert world.outcome(id=3).error.retry_after_s == 0.5

    def test_and_as_many_bytes(self, kit):
        world = kit.World(started=100.0, max_in_flight_bytes=8)
        for number, rows in ((1, 3), (2, 2), (3, 1)):
            world.ask(id=number, rows=rows)
        assert [world.code(id=number) for number in (1, 2, 3)] == ["none", "rejected", "none"]

    def test_who_waited_too_long_is_to_ask_again(self, fresh):
        fresh.ask(id=1)
        fresh.advance(3.0)
        fresh.ask(id=2)
        fresh.advance(1.99)
        assert fresh.outcomes == {}
        fresh.advance(0.02)
        assert [fresh.code(id=number) for number in (1, 2)] == ["unavailable", "unavailable"]
        assert fresh.outcome(id=2).error.retry_after_s == 0.5
        fresh.ask(id=3)
        assert fresh.code(id=3) == "unavailable", "at once, from then on"
        assert nothing_left(fresh)

    def test_a_deadline_holds_while_it_waits(self, fresh):
        fresh.ask(deadline_ms=300)
        fresh.advance(0.29)
        assert fresh.code() == "none"
        fresh.advance(0.02)
        assert fresh.code() == "deadline"
        assert nothing_left(fresh)

    def test_a_plan_that_comes_with_the_deadline_is_too_late(self, fresh):
        fresh.ask(deadline_ms=300, want_accepted=True)
        fresh.now += 0.3
        fresh.plan([["a"]])
        assert fresh.code() == "deadline"
        assert (fresh.sent, accepted(fresh)) == ([], [])

    def test_a_gateway_that_runs_for_longer_refuses_at_once(self, kit):
        world = kit.World(started=94.0)
        world.ask()
        assert world.code() == "unavailable"

    def test_so_does_one_that_is_told_not_to_hold(self, kit):
        world = kit.World(started=100.0, hold_s=0.0)
        world.ask()
        assert world.code() == "unavailable"


class TestGivenUp:
    def test_by_cancelling(self, fresh):
        fresh.ask(id=1)
        fresh.ask(id=2, idempotency_key="k")
        for number in (1, 2):
            fresh.feed(ev.CancelRequested(1, number))
            assert fresh.code(id=number) == "cancelled"
        assert nothing_left(fresh)

    def test_by_leaving(self, fresh):
        fresh.ask(client=1, id=1)
        fresh.ask(client=1, id=2, idempotency_key="k")
        fresh.ask(client=2, id=1)
        fresh.feed(ev.ClientGone(1))
        fresh.plan([["a"]])
        (sent,) = fresh.sent
        fresh.answer(sent)
        assert fresh.code(client=2) == "result"
        assert fresh.settled()

    def test_by_a_gateway_that_is_told_to_stop(self, fresh):
        fresh.ask(id=1)
        fresh.feed(ev.DrainBegan())
        fresh.ask(id=2)
        assert [fresh.code(id=number) for number in (1, 2)] == ["rejected", "rejected"]
        assert fresh.outcome(id=1).error.retry_after_s == 1.0
        assert nothing_left(fresh)


class TestKeys:
    def test_one_key_is_computed_once(self, fresh):
        fresh.ask(id=1, idempotency_key="k", want_accepted=True)
        fresh.ask(id=2, idempotency_key="k", value=8)
        fresh.ask(client=2, id=1, idempotency_key="k")
        fresh.plan([["a"]])
        (sent,) = fresh.sent
        fresh.answer(sent)
        assert (fresh.code(id=1), fresh.code(id=2), fresh.code(client=2)) == ("result", "invalid_input", "result")
        assert fresh.outcome(client=1).seconds == 0.0
        assert accepted(fresh) == [1]

    def test_what_a_journal_restored_needs_no_plan_to_be_given_again(self, kit):
        world = kit.World(started=100.0, journal=True)
        infer = Infer(1, "m", SPECS, idempotency_key="k")
        answer = Answered(Result(1, (TensorSpec("y", "uint8", (1, 2)),)), (b"ab",))
        kept = ev.RestoredRequest(5, infer, [bytes([7, 7])], 160.0, answer)
        world.feed(ev.Restored((kept,), 5))
        world.ask(idempotency_key="k")
        assert world.values() == b"ab"

    def test_who_asks_again_for_what_a_journal_restored_joins_it(self, kit):
        world = kit.World(started=100.0, journal=True)
        infer = Infer(1, "m", SPECS, idempotency_key="old")
        world.feed(ev.Restored((ev.RestoredRequest(5, infer, [bytes([7, 7])], 160.0, None),), 5))
        world.ask(id=1, idempotency_key="new", value=1)
        world.ask(id=2, idempotency_key="old")
        world.advance(1.0)
        world.plan([["a"]])
        assert [do.number for do in world.others if isinstance(do, ev.Record)] == [7], "the new one, and it alone"
        for sent in list(world.sent):
            world.answer(sent)
        assert (world.values(id=1), world.values(id=2)) == (bytes([2, 2]), bytes([8, 8]))
        assert sum(len(sent.header.ids) for sent in world.sent) == 2
