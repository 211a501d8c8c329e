"""What the engine writes down, when a request is accepted, and what it takes up again after a restart."""

from __future__ import annotations

import pytest

from stageline.errors import FailedError
from stageline.plan import Plan
from stageline.protocol import Infer, Result, TensorSpec
from stageline_gateway import events as ev
from stageline_gateway.held import Answered

SPECS = (TensorSpec("x", "uint8", (1, 2)),)


@pytest.fixture
def recording(kit):
    made = kit.World(journal=True, answer_keep_s=10.0)
    made.plan([["a"]])
    return made


def keyed(world, id=1, client=1, key="k", **more):
    world.ask(client=client, id=id, idempotency_key=key, **more)


def did(world, kind):
    return [one for one in world.others if isinstance(one, kind)]


def restored(number=5, key="k", until=160.0, outcome=None, value=7, **more):
    infer = Infer(1, "m", SPECS, idempotency_key=key, **more)
    return ev.RestoredRequest(number, infer, [bytes([value] * 2)], until, outcome)


class TestAccepted:
    def test_only_once_it_is_on_the_disk(self, recording):
        keyed(recording, id=1, want_accepted=True)
        keyed(recording, id=2, want_accepted=True)
        keyed(recording, id=3)
        (record,) = did(recording, ev.Record)
        assert record.buffers == [bytes([7, 7])]
        assert did(recording, ev.Accept) == []
        assert len(recording.sent) == 1, "computing does not wait for the disk"
        recording.feed(ev.Recorded((record.number,)))
        assert did(recording, ev.Accept) == [ev.Accept(1, 1), ev.Accept(1, 2)]
        keyed(recording, id=4, want_accepted=True)
        assert did(recording, ev.Accept)[2:] == [ev.Accept(1, 4)]

    def test_not_after_the_answer(self, recording):
        keyed(recording, want_accepted=True)
        recording.answer(recording.sent[0])
        recording.feed(ev.Recorded((did(recording, ev.Record)[0].number,)))
        assert recording.code() == "result"
        assert did(recording, ev.Accept) == []

    def test_without_a_key_nothing_is_written_down(self, recording):
        recording.ask(want_accepted=True)
        assert recording.others == [ev.Accept(1, 1)]


class TestOutcomes:
    def test_what_is_kept_is_written_down_until_it_is_forgotten(self, recording):
        keyed(recording)
        recording.answer(recording.sent[0])
        (kept,) = did(recording, ev.RecordOutcome)
        assert (kept.expires, kept.outcome.buffers) == (110.0, (bytes([8, 8]),))
        assert did(recording, ev.Forget) == []
        recording.advance(10.1)
        assert did(recording, ev.Forget) == [ev.Forget(kept.number)]

    def test_a_failure_is_kept_too(self, recording):
        keyed(recording)
        recording.fail(recording.sent[0], retryable=False)
        (kept,) = did(recording, ev.RecordOutcome)
        assert isinstance(kept.outcome, FailedError)

    def test_what_another_try_may_cure_is_forgotten(self, recording):
        keyed(recording, deadline_ms=50)
        recording.advance(0.06)
        assert recording.code() == "deadline"
        assert did(recording, ev.RecordOutcome) == []
        assert did(recording, ev.Forget) == [ev.Forget(did(recording, ev.Record)[0].number)]

    def test_a_refused_request_is_not_written_down(self, kit):
        world = kit.World(journal=True, max_in_flight=1)
        world.plan([["a"]])
        keyed(world, key="1")
        keyed(world, key="2", id=2)
        assert world.code(id=2) == "rejected"
        assert len(did(world, ev.Record)) == 1


class TestFullDisk:
    def test_what_could_not_be_written_is_refused_until_it_works_again(self, recording):
        keyed(recording, want_accepted=True)
        recording.feed(ev.RecordingFailed((did(recording, ev.Record)[0].number,), "No space left on device"))
        keyed(recording, id=2, key="other")
        assert recording.code(id=1) == recording.code(id=2) == "rejected"
        error = recording.outcome(id=1).error
        assert "cannot be written (No space left on device): try another gateway" in error.message
        assert error.retry_after_s > 0
        assert did(recording, ev.Accept) == []
        recording.ask(id=3)
        assert recording.code(id=3) == "none", "without a key nothing was promised"
        recording.feed(ev.RecordingWorks())
        keyed(recording, id=4)
        assert recording.code(id=4) == "none"

    def test_a_kept_answer_is_still_given(self, recording):
        keyed(recording)
        recording.answer(recording.sent[0])
        recording.feed(ev.RecordingFailed((), "No space left on device"))
        keyed(recording, id=2)
        assert recording.code(id=2) == "result"

    def test_a_failure_after_the_answer_changes_nothing(self, recording):
        keyed(recording)
        recording.answer(recording.sent[0])
        recording.feed(ev.RecordingFailed((did(recording, ev.Record)[0].number,), "Input/output error"))
        assert recording.code() == "result"


class TestRestart:
    @pytest.fixture
    def again(self, kit):
        return kit.World(journal=True, answer_keep_s=10.0)

    def test_what_has_no_outcome_is_dispatched_and_kept_for_its_client(self, again):
        again.feed(ev.Restored([restored()], 9))
        again.plan([["a"]])
        again.answer(again.sent[0])
        (kept,) = did(again, ev.RecordOutcome)
        assert kept.number == 5
        keyed(again, client=3, want_accepted=True)
        assert did(again, ev.Accept) == [ev.Accept(3, 1)]
        assert again.values(3) == bytes([8, 8])
        assert len(again.sent) == 1

    def test_a_client_may_come_before_the_plan(self, again):
        again.feed(ev.Restored([restored()], 9))
        keyed(again, client=3, want_accepted=True)
        assert did(again, ev.Accept) == [ev.Accept(3, 1)]
        again.plan([["a"]])
        assert len(again.sent) == 1
        again.answer(again.sent[0])
        assert again.values(3) == bytes([8, 8])
        assert again.settled()

    def test_numbers_are_not_used_again(self, again):
        again.feed(ev.Restored([restored()], 9))
        again.plan([["a"]])
        keyed(again, key="new")
        assert did(again, ev.Record)[0].number > 9

    def test_kept_answers_are_given_again_and_expire(self, again):
        answer = Answered(Result(1, (TensorSpec("y", "uint8", (1, 2)),)), (b"zz",))
        again.feed(ev.Restored([restored(outcome=answer, until=104.0)], 9))
        again.plan([["a"]])
        keyed(again)
        assert again.values() == b"zz"
        assert again.sent == []
        again.advance(4.1)
        assert did(again, ev.Forget) == [ev.Forget(5)]
        keyed(again, id=2)
        assert len(again.sent) == 1

    def test_a_clock_that_jumped_back_keeps_nothing_for_ever(self, again):
        answer = Answered(Result(1, (TensorSpec("y", "uint8", (1, 2)),)), (b"zz",))
        again.feed(ev.Restored([restored(outcome=answer, until=1e6), restored(6, "l", 1e6, deadline_ms=500)], 9))
        again.advance(10.1)
        assert sorted(one.number for one in did(again, ev.Forget)) == [5, 6]

    def test_an_empty_plan_is_not_the_end(self, again):
        again.feed(ev.Restored([restored()], 9))
        again.feed(ev.PlanApplied(Plan(1, 0)))
        keyed(again)
        again.plan([["a"]])
        again.answer(again.sent[0])
        assert again.code() == "result"

    def test_the_deadline_holds_without_a_plan_too(self, again):
        again.feed(ev.Restored([restored(until=101.0)], 9))
        keyed(again, deadline_ms=3000)
        again.advance(2.0)
        assert again.code() == "none", "who waits now waits longer"
        again.advance(1.1)
        assert again.code() == "deadline"
        again.plan([["a"]])
        assert again.sent == []
        assert again.settled()

    def test_cancelling_it_before_the_plan(self, again):
        again.feed(ev.Restored([restored()], 9))
        keyed(again)
        again.feed(ev.CancelRequested(1, 1))
        assert again.code() == "cancelled"
        assert did(again, ev.Forget) == [ev.Forget(5)]
        again.plan([["a"]])
        assert again.sent == []

    def test_what_the_model_does_not_take_any_more_is_told(self, again):
        again.feed(ev.Restored([ev.RestoredRequest(5, Infer(1, "m", (), idempotency_key="k"), [], 160.0)], 9))
        again.plan([["a"]])
        assert did(again, ev.Forget) == [ev.Forget(5)]

    def test_of_two_with_one_key_the_later_counts(self, again):
        again.feed(ev.Restored([restored(4, value=1, until=150.0), restored(5, value=7)], 9))
        again.plan([["a"]])
        assert did(again, ev.Forget) == [ev.Forget(4)]
        keyed(again)
        assert len(again.sent) == 1
        again.answer(again.sent[0])
        assert again.values() == bytes([8, 8])

    def test_while_stopping_nothing_is_begun(self, again):
        again.feed(ev.Restored([restored()], 9))
        again.feed(ev.DrainBegan())
        again.plan([["a"]])
        assert again.sent == did(again, ev.Forget) == []
