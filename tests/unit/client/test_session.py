"""The calls of a client: each has one outcome, whatever happens to connections on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageline import protocol as p
from stageline.client.retrying import NEVER, Retry
from stageline.client.session import GRACE_S, Session
from stageline.client.tensors import to_wire
from stageline.errors import (
    ConnectionLostError,
    DeadlineError,
    FailedError,
    InvalidInputError,
    RejectedError,
    RemoteProtocolError,
    UnavailableError,
)
from stageline.framing import FrameReader

X = to_wire({"x": np.array([[1, 2]], np.int16)})
LOST = ConnectionLostError("it broke")


def make(retry=None, chance=0.0):
    return Session(retry or Retry(first_s=1.0, longest_s=4.0, attempts=3, reconnect_s=5.0), "key", lambda: chance)


def taken(session, now):
    """The messages that are to be written, and their bodies."""
    frames = FrameReader().feed(b"".join(session.take(now)))
    return [p.decode_to_server(frame.header) for frame in frames]


def test_a_request_is_what_was_asked_for():
    session = make()
    call = session.infer("m", X, 10.0, priority=3, deadline_s=0.5, trace_id="t")
    (frame,) = FrameReader().feed(b"".join(session.take(10.0)))
    assert p.decode_to_server(frame.header) == p.Infer(
        call.number, "m", (p.TensorSpec("x", "int16", (1, 2)),), priority=3, deadline_ms=500.0, trace_id="t",
        idempotency_key="key-1", want_timings=True,
    )  # fmt: skip
    assert bytes(frame.body) == b"\1\0\2\0"
    assert session.take(10.0) == []
    assert session.answered(call.number, "y", 10.1).value == "y"
    assert session.answered(call.number, "y", 10.2) is None
    assert len(session) == 0


def test_keys_differ_and_may_be_given():
    session = make()
    for _ in range(2):
        session.infer("m", X, 0.0)
    session.infer("m", X, 0.0, idempotency_key="mine")
    assert [m.idempotency_key for m in taken(session, 0.0)] == ["key-1", "key-2", "mine"]
    session = make(NEVER)
    session.infer("m", X, 0.0)
    assert [m.idempotency_key for m in taken(session, 0.0)] == [""]


class TestLoss:
    def test_what_was_sent_is_sent_again_with_its_key_and_the_time_left(self):
        session = make()
        session.infer("m", X, 0.0, deadline_s=10.0)
        (first,) = taken(session, 0.0)
        assert session.lost(LOST, 4.0) == []
        assert session.waiting
        (second,) = taken(session, 4.0)
        assert (second.idempotency_key, second.deadline_ms) == (first.idempotency_key, 6000.0)

    def test_attempts_are_bounded(self):
        session = make()
        call = session.infer("m", X, 0.0)
        for now in (0.0, 1.0):
            assert len(taken(session, now)) == 1
            assert session.lost(LOST, now) == []
        taken(session, 2.0)
        (ended,) = session.lost(LOST, 2.0)
        assert (ended.number, ended.value) == (call.number, LOST)

    def test_without_retries_it_ends_what_was_sent(self):
        session = make(NEVER)
        session.infer("m", X, 0.0)
        taken(session, 0.0)
        assert [one.value for one in session.lost(LOST, 0.1)] == [LOST]
        session.infer("m", X, 1.0)
        assert [one.value for one in session.unreachable(LOST, 1.0)] == [LOST]

    def test_a_broken_protocol_is_not_tried_again(self):
        session = make()
        session.infer("m", X, 0.0)
        taken(session, 0.0)
        error = RemoteProtocolError("no")
        assert [one.value for one in session.lost(error, 0.1)] == [error]

    def test_without_a_gateway_calls_end_after_a_while(self):
        session = make()
        session.infer("m", X, 0.0)
        session.infer("m", X, 3.0)
        assert session.unreachable(LOST, 4.9) == []
        assert [one.number for one in session.unreachable(LOST, 5.0)] == [1]
        assert [one.number for one in session.unreachable(LOST, 8.0)] == [2]

    def test_a_late_answer_of_the_old_connection_is_not_taken(self):
        session = make()
        call = session.infer("m", X, 0.0)
        taken(session, 0.0)
        session.lost(LOST, 1.0)
        assert session.answered(call.number, "y", 1.0) is None


class TestErrors:
    def test_what_another_try_may_cure_is_tried_after_a_growing_pause(self):
        session = make()
        call = session.infer("m", X, 0.0)
        taken(session, 0.0)
        assert session.answered(call.number, RejectedError("full"), 0.0) is None
        assert session.wake_at() == 1.0
        assert taken(session, 0.9) == []
        assert len(taken(session, 1.0)) == 1
        session.answered(call.number, UnavailableError("down", retry_after_s=7.0), 1.0)
        assert taken(session, 7.9) == []
        assert len(taken(session, 8.0)) == 1
        full = RejectedError("full")
        assert session.answered(call.number, full, 8.0).value is full

    def test_not_beyond_the_deadline(self):
        session = make()
        call = session.infer("m", X, 0.0, deadline_s=0.9)
        taken(session, 0.0)
        error = RejectedError("full")
        assert session.answered(call.number, error, 0.0).value is error

    def test_the_rest_is_final(self):
        session = make()
        call = session.infer("m", X, 0.0)
        taken(session, 0.0)
        error = FailedError("broken")
        assert session.answered(call.number, error, 0.0).value is error


class TestTime:
    def test_a_gateway_that_does_not_say_that_the_deadline_passed(self):
        session = make()
        session.infer("m", X, 0.0, deadline_s=2.0)
        taken(session, 0.0)
        assert session.wake_at() == 2.0
        assert session.due(2.0) == []
        assert session.wake_at() == 2.0 + GRACE_S
        (ended,) = session.due(2.0 + GRACE_S)
        assert isinstance(ended.value, DeadlineError)
        assert "is it overloaded" in ended.value.message
        assert session.wake_at() is None

    def test_a_deadline_that_passes_before_it_could_be_sent(self):
        session = make()
        session.infer("m", X, 0.0, deadline_s=2.0)
        (ended,) = session.due(2.0)
        assert isinstance(ended.value, DeadlineError)
        assert "before a gateway took" in ended.value.message

    def test_a_deadline_without_a_gateway_names_what_keeps_it_away(self):
        session = make()
        session.infer("m", X, 0.0, deadline_s=2.0)
        taken(session, 0.0)
        session.trouble = ConnectionLostError("cannot reach a gateway at a:1 (refused)")
        assert session.lost(LOST, 0.5) == []
        (ended,) = session.due(2.0)
        assert isinstance(ended.value, ConnectionLostError)
        assert ended.value.message == (
            "no gateway took the request within its deadline of 2 s: cannot reach a gateway at a:1 (refused) "
            "(start one there, or give the address of another, too)"
        )

    def test_the_gateways_default_counts(self):
        session = make()
        session.limits = p.Limits(1000, 4, default_deadline_ms=3000.0)
        session.infer("m", X, 0.0)
        assert taken(session, 0.0)[0].deadline_ms == 0.0
        assert session.wake_at() == 3.0

    def test_timers_of_what_has_ended_are_forgotten(self):
        session = make()
        for i in range(10_000):
            call = session.infer("m", X, float(i), deadline_s=1e6)
            session.take(float(i))
            session.answered(call.number, "y", float(i))
        assert len(session._timers) < 2000


@pytest.mark.parametrize(
    ("deadline_s", "error"),
    [
        (0.0, DeadlineError),
        (-1.0, DeadlineError),
        (float("nan"), InvalidInputError),
        (float("inf"), InvalidInputError),
        ("3", InvalidInputError),
    ],
)
def test_deadlines_that_are_none(deadline_s, error):
    session = make()
    with pytest.raises(error, match="deadline"):
        session.infer("m", X, 0.0, deadline_s=deadline_s)
    assert len(session) == 0


def test_what_the_gateway_would_not_take_is_not_sent():
    session = make()
    session.limits = p.Limits(3, 4)
    with pytest.raises(InvalidInputError, match="4 bytes, the gateway takes 3: send a smaller batch"):
        session.infer("m", X, 0.0)


def test_cancelling_tells_the_gateway_only_what_it_has():
    session = make()
    first, second = session.infer("m", X, 0.0).number, session.infer("m", X, 0.0).number
    assert session.cancel(first) == []
    assert [m.id for m in taken(session, 0.0)] == [second]
    (frame,) = FrameReader().feed(b"".join(session.cancel(second)))
    assert p.decode_to_server(frame.header) == p.Cancel(second)
    assert session.cancel(second) == []
    assert not session.waiting


step = st.one_of(
    st.tuples(st.just("infer"), st.sampled_from([None, 0.5, 5.0])),
    st.tuples(st.just("answer"), st.integers(0, 20), st.sampled_from(["y", "rejected", "failed"])),
    st.tuples(st.just("lost")),
    st.tuples(st.just("connect")),
    st.tuples(st.just("refused")),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 1.0, 6.0])),
)
VALUES = {"y": "y", "rejected": RejectedError("full", retry_after_s=0.2), "failed": FailedError("no")}


class Run:
    def __init__(self):
        self.session, self.now, self.connected = make(chance=0.5), 0.0, True
        self.asked, self.ended, self.cancelled, self.sends = [], {}, set(), {}

    def infer(self, deadline_s):
        self.asked.append(self.session.infer("m", X, self.now, deadline_s=deadline_s).number)

    def answer(self, which, what):
        if self.asked and self.connected:
            self.end([self.session.answered(self.asked[which % len(self.asked)], VALUES[what], self.now)])

    def lost(self):
        if self.connected:
            self.connected = False
            self.end(self.session.lost(LOST, self.now))

    def connect(self):
        self.connected = True

    def refused(self):
        if not self.connected:
            self.end(self.session.unreachable(LOST, self.now))

    def cancel(self, which):
        if self.asked:
            number = self.asked[which % len(self.asked)]
            self.session.cancel(number)
            if number not in self.ended:
                self.cancelled.add(number)

    def advance(self, seconds):
        self.now += seconds
        self.end(self.session.due(self.now))

    def end(self, ended):
        for one in ended:
            if one is not None:
                assert one.number not in self.ended
                assert one.number not in self.cancelled
                self.ended[one.number] = one.value

    def write(self):
        if self.connected:
            for message in taken(self.session, self.now):
                self.sends[message.id] = self.sends.get(message.id, 0) + 1
                assert message.deadline_ms >= 0
                assert message.id not in self.ended


@settings(deadline=None)
@given(st.lists(step, max_size=60))
def test_every_call_ends_once(steps):
    run = Run()
    for name, *values in steps:
        getattr(run, name)(*values)
        run.write()
    assert all(count <= 3 for count in run.sends.values())
    run.connect()
    for _ in range(20):
        run.advance(10.0)
        run.write()
    assert set(run.ended) | run.cancelled == set(run.asked)
    assert len(run.session) == 0
