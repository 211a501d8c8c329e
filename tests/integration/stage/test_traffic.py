from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from stageline import logs
from stageline.data import DATA_VERSION, Activation, Cancel, Failure, Hop, Tensor, decode_frames, encode_frames
from stageline.messages import DATA, Mark
from stageline.passing import Passing
from stageline.plan import StageKey
from stageline.sockets import Sockets
from stageline_stage.executor.batches import Batch, Outgoing, Work
from stageline_stage.executor.queue import WorkQueue
from stageline_stage.executor.traffic import BURST, HELD, Bell, Host, Traffic

KEY = StageKey(manifest="a" * 64, start=0, end=1)
DEADLINE_S = 30.0


class Rig:
    """The sockets of an executor between a driver that sends to it and a sink that it sends to."""

    def __init__(self) -> None:
        self.own, self.others = Sockets(), Sockets()
        data, endpoint = self.own.bind_data("127.0.0.1")
        self.sink, sink = self.others.bind_data("127.0.0.1")
        self.sink.setsockopt(zmq.RCVTIMEO, round(DEADLINE_S * 1000))
        self.push = self.others.connect(DATA, endpoint.tcp)
        self.push.setsockopt(zmq.SNDTIMEO, round(DEADLINE_S * 1000))
        self.reply = sink.tcp
        self.called = threading.Event()
        self.queue: WorkQueue[Work] = WorkQueue(Bell(self.own, data).ring)
        self.traffic = Traffic(
            Host("n1", "e1"),
            self.own,
            data,
            queue=self.queue,
            call_io=self.called.set,
            passing=Passing(),
            log=logs.get(),
        )

    def close(self) -> None:
        self.own.close()
        self.others.close()

    def batch(self, number: int, priority: int = 0, hop: int = 0) -> None:
        """Send a batch to the executor."""
        self.push.send_multipart(encode_frames(header(self.reply, number, priority, hop), [b"abcd"]))

    def until(self, holds: Callable[[], bool], act: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, "what was waited for did not come"
            act()

    def taken(self) -> list[int]:
        numbers = []
        while (work := self.queue.take()) is not None:
            assert isinstance(work, Batch) and bytes(work.buffers[0]) == b"abcd"
            numbers.append(work.header.batch)
        return numbers

    def received(self) -> Any:
        return decode_frames(self.sink.recv_multipart())[0]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def header(reply: str, number: int, priority: int = 0, hop: int = 0) -> Activation:
    path = (Hop(KEY, "tcp://127.0.0.1:1", "n1", "e1"),)
    values = (Tensor("uint8", (1, 4)),)
    return Activation(DATA_VERSION, "g", number, (1,), (1,), 1, (1, 1), path, hop, reply, values, priority=priority)


def outgoing(address: str, number: int) -> Outgoing:
    failure = Failure(DATA_VERSION, "g", number, 1, "failed", "no", "n1", "e1", retryable=False)
    return Outgoing(address, encode_frames(failure), "g")


def test_what_came_is_taken_by_priority(rig: Rig) -> None:
    for number, priority in ((1, 0), (2, 5), (3, -1)):
        rig.batch(number, priority)
    rig.until(lambda: rig.queue.depth == 3, lambda: (rig.traffic.turn(), rig.queue.depth == 3 or rig.traffic.wait()))
    assert rig.taken() == [3, 1, 2]


def test_one_turn_reads_a_limited_number_and_says_that_there_is_more(rig: Rig) -> None:
    for number in range(2 * BURST):
        rig.batch(number)
    depths: list[int] = []
    rig.until(lambda: rig.queue.depth == 2 * BURST, lambda: (rig.traffic.turn(), depths.append(rig.queue.depth)))
    assert max(b - a for a, b in zip([0, *depths], depths, strict=False)) <= BURST


def test_waiting_ends_when_the_queue_changes(rig: Rig) -> None:
    thread = threading.Timer(0.05, rig.queue.close)
    thread.start()
    rig.until(lambda: rig.queue.closed, rig.traffic.wait)
    thread.join()


def test_held_outcomes_leave_together_and_in_order(rig: Rig) -> None:
    for number in range(HELD):
        assert not rig.traffic.full
        rig.traffic.send(outgoing(rig.reply, number), header(rig.reply, number))
    assert rig.traffic.full
    rig.until(lambda: bool(rig.sink.poll(20)), rig.traffic.turn)
    assert [rig.received().batch for _ in range(HELD)] == list(range(HELD)) and not rig.traffic.full


def test_waiting_sends_what_is_held(rig: Rig) -> None:
    rig.traffic.send(outgoing(rig.reply, 5), header(rig.reply, 5))
    rig.until(lambda: bool(rig.sink.poll(20)), rig.traffic.wait)
    assert rig.received().batch == 5


def test_waiting_receives_although_a_peer_is_not_there(rig: Rig) -> None:
    rig.traffic.send(outgoing("tcp://127.0.0.1:1", 5), header(rig.reply, 5))
    rig.batch(3)
    rig.until(lambda: rig.queue.depth == 1, rig.traffic.wait)
    assert rig.taken() == [3]


def test_while_lent_another_thread_receives_and_sends(rig: Rig) -> None:
    assert not rig.traffic.serve() and rig.traffic.lent_descriptor() is None
    rig.traffic.send(outgoing(rig.reply, 7), header(rig.reply, 7))

    def run() -> str:
        assert rig.called.is_set() and rig.traffic.lent_descriptor() is not None
        rig.batch(1)
        rig.until(lambda: rig.queue.depth == 1 and bool(rig.sink.poll(0)), rig.traffic.serve)
        return "done"

    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(rig.traffic.while_lent(run)))
    thread.start()
    thread.join(DEADLINE_S)
    assert results == ["done"] and rig.taken() == [1] and rig.received().batch == 7
    assert rig.traffic.lent_descriptor() is None and not rig.traffic.serve()


def test_the_sockets_come_back_when_the_stage_fails(rig: Rig) -> None:
    def run() -> None:
        raise ValueError("the stage")

    with pytest.raises(ValueError, match="the stage"):
        rig.traffic.while_lent(run)
    assert rig.traffic.lent_descriptor() is None
    rig.batch(4)
    rig.until(lambda: rig.queue.depth == 1, rig.traffic.turn)


def test_a_closed_queue_answers_with_a_failure(rig: Rig) -> None:
    rig.queue.close()
    rig.batch(9)
    rig.until(lambda: bool(rig.sink.poll(20)), rig.traffic.turn)
    failure = rig.received()
    assert isinstance(failure, Failure) and failure.batch == 9 and failure.retryable and failure.code == "not_loaded"


def test_what_is_no_batch_is_dropped_and_counted(rig: Rig) -> None:
    rig.push.send_multipart([b"nonsense", b"x"])
    rig.batch(1, hop=1)
    rig.batch(2)
    rig.until(lambda: rig.queue.depth == 1, rig.traffic.turn)
    assert rig.traffic.malformed == 2 and rig.taken() == [2]


def test_closing_sends_what_is_left(rig: Rig) -> None:
    for number in range(3):
        rig.traffic.send(outgoing(rig.reply, number), header(rig.reply, number))
    rig.traffic.close()
    assert [rig.received().batch for _ in range(3)] == [0, 1, 2]


def test_it_tells_what_passed_and_that_it_looked(rig: Rig) -> None:
    first = rig.traffic.passage(0.0)
    assert (first.end, first.came, first.went) == ("e1", (), ())
    for number in (4, 5):
        rig.batch(number)
    rig.until(lambda: rig.queue.depth == 2, rig.traffic.turn)
    rig.traffic.send(outgoing(rig.reply, 4), header(rig.reply, 4))
    rig.traffic.turn()
    told = rig.traffic.passage(1.0)
    assert told.looks != first.looks
    assert told.came == (Mark(gateway="g", peer="g", batch=5),)
    assert [(mark.gateway, mark.peer, mark.batch) for mark in told.went] == [("g", "g", 4)]
    assert rig.traffic.passage(1.0).looks == told.looks, "it has not looked since"


def test_who_waits_for_messages_looks_all_the_time(rig: Rig) -> None:
    waiting = threading.Thread(target=rig.traffic.wait)
    before = rig.traffic.passage(0.0).looks
    waiting.start()
    seen = []
    rig.until(lambda: len(set(seen)) > 1, lambda: seen.append(rig.traffic.passage(0.0).looks))
    rig.batch(1)
    waiting.join(DEADLINE_S)
    assert seen[-1] > before


def test_a_damaged_batch_is_told_to_its_gateway_and_not_computed(rig: Rig) -> None:
    frames = [bytearray(part) for part in encode_frames(header(rig.reply, 9), [b"abcd"], checked=True)]
    frames[-1][-2] ^= 4
    rig.push.send_multipart(frames)
    rig.until(lambda: bool(rig.sink.poll(0)), rig.traffic.turn)
    failure = rig.received()
    assert rig.traffic.damaged == 1
    assert (failure.code, failure.batch, failure.retryable) == ("damaged", 9, True)
    assert rig.taken() == [] and rig.traffic.malformed == 0
    rig.push.send_multipart(encode_frames(header(rig.reply, 10), [b"abcd"], checked=True))
    rig.until(lambda: rig.queue.depth == 1, rig.traffic.turn)
    assert rig.taken() == [10]


def test_a_cancellation_follows_the_path_and_says_which_batches_not_to_compute(rig: Rig) -> None:
    path = (Hop(KEY, "tcp://127.0.0.1:1", "n1", "e1"), Hop(KEY, rig.reply, "n2", "e2"))
    rig.push.send_multipart(encode_frames(Cancel(DATA_VERSION, "g", (4, 5), path)))
    rig.until(lambda: bool(rig.sink.poll(0)), rig.traffic.turn)
    further = rig.received()
    assert (further.batches, further.hop, further.gateway) == ((4, 5), 1, "g")
    assert rig.traffic.cancelled.take("g", 4) and rig.traffic.cancelled.take("g", 5)
    assert not rig.traffic.cancelled.take("g", 6)
