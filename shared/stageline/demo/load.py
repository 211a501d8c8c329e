"""A closed-loop stream of requests through the TCP client: a fixed number is always under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from stageline.client import Client, InferResult
from stageline.demo.judge import Floats
from stageline.errors import ClusterError, StagelineError

DEADLINE_S = 90.0
INPUT, OUTPUT = "pixel_values", "logits"


@dataclass(frozen=True)
class Sample:
    """A request and its outcome; times in seconds on the monotonic clock. `error` says why there is no `result`."""

    index: int
    sent: float
    done: float
    result: InferResult | None = None
    error: str = ""


@dataclass
class Stream:
    """Sends `images[i]` for i = 0, 1, … in a circle, `concurrency` at a time, until `count` or `finish`."""

    model: str
    images: Floats
    address: str
    concurrency: int
    count: int | None = None
    on_answer: Callable[[Sample], None] = lambda sample: None
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._room = threading.Semaphore(self.concurrency)
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._open = 0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"stream-{self.model}", daemon=True)
        self.sent = 0

    def start(self) -> Stream:
        """Begin."""
        self._thread.start()
        return self

    def finish(self) -> None:
        """Send nothing more."""
        self._stop.set()
        self._room.release()

    def wait(self, timeout_s: float) -> bool:
        """Whether the stream has ended; raises `ClusterError` if it broke off."""
        self._thread.join(timeout_s)
        if self._failure is not None:
            raise ClusterError(f"the stream of {self.model} requests broke off: {self._failure}")
        return not self._thread.is_alive()

    def answered(self) -> int:
        """Outcomes so far."""
        with self._lock:
            return len(self.samples)

    def _run(self) -> None:
        try:
            self._converse()
        except Exception as error:  # whatever it is, it must not look like a stream that has ended
            self._failure = error

    def _converse(self) -> None:
        with Client(self.address, name=f"demo-{self.model}") as client:
            while self.count is None or self.sent < self.count:
                self._room.acquire()
                if self._stop.is_set():
                    break
                self._send(client, self.sent % len(self.images))
                self.sent += 1
            with self._idle:
                self._idle.wait_for(lambda: self._open == 0, DEADLINE_S + 15)

    def _send(self, client: Client, index: int) -> None:
        with self._lock:
            self._open += 1
        begun = time.monotonic()
        try:
            future = client.submit(self.model, {INPUT: self.images[index : index + 1]}, deadline_s=DEADLINE_S)
        except StagelineError as error:
            self._outcome(Sample(index, begun, time.monotonic(), error=str(error)))
            return
        future.add_done_callback(lambda done: self._done(index, begun, done))

    def _done(self, index: int, begun: float, future: Future[InferResult]) -> None:
        now = time.monotonic()
        error = future.exception()
        if error is not None:
            self._outcome(Sample(index, begun, now, error=f"{type(error).__name__}: {error}"))
        else:
            self._outcome(Sample(index, begun, now, result=future.result()))

    def _outcome(self, sample: Sample) -> None:
        with self._idle:
            self.samples.append(sample)
            self._open -= 1
            self._idle.notify_all()
        self._room.release()
        self.on_answer(sample)
