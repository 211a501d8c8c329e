"""The shell: what it sends, how outcomes reach the recorder, and that it leaves nothing open."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from stageline.bench import drive
from stageline.bench.drive import Driver
from stageline.bench.inputs import Inputs
from stageline.bench.recorder import Figures, Recorder
from stageline.bench.schedule import ClosedLoop, OpenLoop, Pacer, Window
from stageline.client import InferResult
from stageline.errors import ConnectionLostError, RejectedError, StagelineError

WINDOW = Window(0.0, 0.2)
POOL = [{"x": np.array([number])} for number in range(3)]
ANSWER = InferResult(outputs={}, batch=4, attempts=2, timings=None, request_id=1)


class Server:
    """Ends each request on a thread of its own choosing, as the client does."""

    def __init__(self, outcome: InferResult | Exception | None = ANSWER) -> None:
        self.outcome = outcome
        self.asked: list[int] = []
        self.futures: list[Future[InferResult]] = []
        self.under_way = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, inputs: Inputs) -> Future[InferResult]:
        future: Future[InferResult] = Future()
        with self._lock:
            self.asked.append(int(inputs["x"][0]))
            self.futures.append(future)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        if self.outcome is not None:
            threading.Timer(0.001, self._end, (future,)).start()
        return future

    def _end(self, future: Future[InferResult]) -> None:
        with self._lock:
            self.under_way -= 1
        if isinstance(self.outcome, Exception):
            future.set_exception(self.outcome)
        elif self.outcome is not None:
            future.set_result(self.outcome)


class Counted(ClosedLoop):
    """Over after `count` requests instead of a time."""

    def __init__(self, concurrency: int, count: int) -> None:
        super().__init__(concurrency, end_s=600.0)
        self.left = count

    def take(self, now: float) -> float | None:
        intended = super().take(now)
        self.left -= intended is not None
        return intended

    def over(self, now: float) -> bool:
        return self.left == 0


def run(server: Server, pacer: Pacer) -> Figures:
    recorder = Recorder(WINDOW)
    Driver(server, POOL, pacer, recorder, WINDOW.end_s).run()
    return recorder.figures()


def closed(callers: int) -> ClosedLoop:
    return ClosedLoop(callers, WINDOW.end_s)


def test_so_many_callers_ask_so_many_at_once_and_inputs_go_round() -> None:
    server, recorder = Server(), Recorder(Window(0.0, 600.0))
    Driver(server, POOL, Counted(3, 30), recorder, 600.0).run()
    figures = recorder.figures()
    assert figures.requests == figures.answered == len(server.asked) == 30
    assert server.most == 3
    assert server.asked[:6] == [0, 1, 2, 0, 1, 2]
    assert (figures.retries, figures.shared) == (figures.answered, 4.0)
    assert figures.latency.max >= figures.latency.p50 > 0


def test_every_arrival_is_sent_with_at_most_so_many_under_way() -> None:
    server = Server()
    figures = run(server, OpenLoop(iter([0.0] * 20), limit=4, end_s=WINDOW.end_s))
    assert figures.requests == figures.answered == len(server.asked) == 20
    assert server.most <= 4


def test_errors_count_by_kind() -> None:
    figures = run(Server(RejectedError("full", retry_after_s=60.0)), closed(2))
    assert (figures.errors, figures.messages) == ({"rejected": 2}, {"rejected": "full"}), (
        "callers wait as they are told"
    )
    assert figures.latency.count == 0


def test_a_request_that_cannot_even_be_sent_is_an_error() -> None:
    def submit(inputs: Inputs) -> Future[InferResult]:
        raise ConnectionLostError("closed", retry_after_s=60.0)

    recorder = Recorder(WINDOW)
    Driver(submit, POOL, closed(1), recorder, WINDOW.end_s).run()
    assert recorder.figures().errors == {"connection_lost": 1}


def test_what_is_not_answered_in_time_is_counted_and_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "DRAIN_S", 0.0)
    server = Server(outcome=None)
    figures = run(server, OpenLoop(iter([0.0, 0.0, 0.1]), limit=2, end_s=WINDOW.end_s))
    assert (figures.requests, figures.unanswered, len(server.asked)) == (3, 3, 2)
    assert figures.latency.count == 3
    assert figures.latency.max >= WINDOW.end_s
    assert all(future.cancelled() for future in server.futures)


def test_an_error_that_is_none_of_ours_is_not_hidden() -> None:
    assert not issubclass(ZeroDivisionError, StagelineError)
    with pytest.raises(ZeroDivisionError):
        run(Server(ZeroDivisionError()), closed(1))


def test_progress_is_reported() -> None:
    said: list[tuple[str, float]] = []
    Driver(Server(), POOL, closed(1), Recorder(WINDOW), WINDOW.end_s, lambda *args: said.append(args)).run()
    assert said[0][0] == "0 answered, 0 under way"
    assert all(0 <= fraction <= 1 for _, fraction in said)
