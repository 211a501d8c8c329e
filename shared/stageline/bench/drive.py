"""The shell around a pacer and a recorder: the clock, the client, waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue

from stageline.bench.inputs import Inputs
from stageline.bench.recorder import Recorder
from stageline.bench.schedule import Pacer
from stageline.catalogue import Report
from stageline.client import InferResult
from stageline.errors import StagelineError

DRAIN_S = 10.0
"""How long after its end a run waits for what is still unanswered."""

ERROR_PAUSE_S = 0.05
"""How long a caller of a closed loop waits after an error, unless the gateway says how long."""

TICK_S = 0.1

Submit = Callable[[Inputs], "Future[InferResult]"]
Ended = tuple[int, float, "Future[InferResult]"]


class Driver:
    """Sends what the pacer says, `inputs` in a circle, and tells the recorder; `end_s` is when the pacer ends."""

    def __init__(
        self, submit: Submit, inputs: Sequence[Inputs], pacer: Pacer, recorder: Recorder, end_s: float,
        report: Report = lambda text, fraction: None,
    ) -> None:  # fmt: skip
        self._submit = submit
        self._inputs = inputs
        self._pacer = pacer
        self._recorder = recorder
        self._end_s = end_s
        self._report = report
        self._open: dict[int, tuple[float, Future[InferResult]]] = {}
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._count = 0
        self._begun = 0.0

    def run(self) -> None:
        """Until everything has ended, or `DRAIN_S` after the end; the rest is cancelled and recorded as abandoned."""
        self._begun = time.monotonic()
        shown = -TICK_S
        try:
            while (now := self._now()) < self._end_s + DRAIN_S:
                if now - shown >= TICK_S:
                    shown = now
                    self._show(now)
                if self._pacer.over(now) and not self._open:
                    return
                self._send(now)
                self._collect()
            self._abandon(now)
        finally:
            for _, future in list(self._open.values()):
                future.cancel()

    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _send(self, now: float) -> None:
        while (intended := self._pacer.take(now)) is not None:
            number, self._count = self._count, self._count + 1
            self._recorder.sent(intended, now)
            try:
                future = self._submit(self._inputs[number % len(self._inputs)])
            except StagelineError as error:
                self._failed(intended, now, error)
            else:
                self._open[number] = (intended, future)
                future.add_done_callback(partial(self._answered, number))
            now = self._now()

    def _answered(self, number: int, future: Future[InferResult]) -> None:
        """Called in the client's thread, or in ours if it ended at once."""
        self._ended.put((number, self._now(), future))

    def _collect(self) -> None:
        """Wait for an outcome or the next time to send, and take what has ended."""
        at = self._pacer.next_at()
        wait_s = TICK_S if at is None else min(TICK_S, at - self._now())
        try:
            self._take(self._ended.get(timeout=wait_s) if wait_s > 0 else self._ended.get_nowait())
            while True:
                self._take(self._ended.get_nowait())
        except Empty:
            return

    def _take(self, ended: Ended) -> None:
        number, now, future = ended
        intended, _ = self._open.pop(number)
        error = future.exception()
        if error is None:
            result = future.result()
            self._recorder.answered(intended, now, attempts=result.attempts, shared=result.batch)
            self._pacer.ended(now)
        elif isinstance(error, StagelineError):
            self._failed(intended, now, error)
        else:
            raise error

    def _failed(self, intended: float, now: float, error: StagelineError) -> None:
        self._recorder.failed(intended, error.code, str(error))
        self._pacer.ended(now, max(ERROR_PAUSE_S, error.retry_after_s or 0.0))

    def _abandon(self, now: float) -> None:
        for intended, _ in self._open.values():
            self._recorder.abandoned(intended, now)
        for intended in self._pacer.backlog():
            self._recorder.abandoned(intended, now)

    def _show(self, now: float) -> None:
        failed = f", {self._recorder.failures} failed" if self._recorder.failures else ""
        text = f"{self._recorder.answers} answered{failed}, {len(self._open)} under way"
        self._report(text, min(1.0, now / self._end_s))
