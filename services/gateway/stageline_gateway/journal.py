"""The journal: what was accepted with an idempotency key outlives the gateway.

Records are written and synced in groups by a thread of its own: whatever has come while one group was on its way to the
disk is the next. Requests start a group at once; outcomes wait for one, or a moment, because losing them costs only
computing. Times on disk are Unix times, all others the loop's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stageline.data import Buffer
from stageline.errors import FailedError, InvalidInputError, StagelineError, from_wire
from stageline.logs import Logger
from stageline.protocol import Error, split_body
from stageline_gateway import events as ev
from stageline_gateway.held import Answered, Outcome
from stageline_gateway.journal_file import Entry, JournalFile
from stageline_gateway.journal_format import Ended, Freed, Span, Taken

OUTCOMES_WAIT_S = 0.05
RETRY_S = 1.0
QUEUE_BYTES = 64 << 20
"""Outcomes that wait for a slow disk may take so much memory; more are not recorded."""


class Journal:
    """Loop thread only. `on_event` gets `Recorded`, `RecordingFailed` and `RecordingWorks`.

    Raises as `JournalFile` does.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, folder: Path, on_event: Callable[[ev.Event], None], log: Logger
    ) -> None:
        self._loop, self._on_event, self._log = loop, on_event, log
        self._file = JournalFile(folder)
        self._thread = ThreadPoolExecutor(1, "journal")
        self._queue: list[Entry] = []
        self._queued_bytes = 0
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = self._closed = False
        if self._file.damaged:
            log.error("the journal is damaged", what=self._file.damaged)

    @property
    def nbytes(self) -> int:
        """How long the file is."""
        return self._file.nbytes

    @property
    def actions(self) -> dict[type, Callable[[Any], None]]:
        """What does each of the instructions that are for the journal."""
        return {ev.Record: self.record, ev.RecordOutcome: self.outcome, ev.Forget: self.forget}

    def restored(self) -> ev.Restored:
        """What was accepted before, and is not answered, or its answer is still kept."""
        index = self._file.contents.index
        requests = tuple(self._requests(list(index.taken.values()), index.ended))
        return ev.Restored(requests, index.last)

    def record(self, do: ev.Record) -> None:
        """Write a request down; `Recorded` says that it is on the disk."""
        self._put(Taken(do.number, self._on_disk(do.deadline), do.infer), do.buffers)
        self._commit()

    def outcome(self, do: ev.RecordOutcome) -> None:
        """Write an outcome down."""
        expires, outcome = self._on_disk(do.expires), do.outcome
        if isinstance(outcome, Answered):
            self._put(Ended(do.number, expires, result=outcome.result), outcome.buffers)
        else:
            self._put(Ended(do.number, expires, error=Error(0, outcome.code, outcome.message, node=outcome.node)), ())

    def forget(self, do: ev.Forget) -> None:
        """A request, and its outcome, are of no more use."""
        self._put(Freed(do.number), ())

    async def close(self) -> None:
        """Write what waits, and take no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._running is not None:
            await self._running
        if self._queue and not self._failing:
            await self._write_all()
        self._thread.shutdown()
        self._file.close()

    # --- own ------------------------------------------------------------------------------------------------

    def _on_disk(self, at: float) -> float:
        return at - self._loop.time() + time.time()

    def _put(self, record: Taken | Ended | Freed, buffers: Sequence[Buffer]) -> None:
        nbytes = sum(memoryview(part).nbytes for part in buffers)
        if self._closed or (isinstance(record, Ended) and self._queued_bytes + nbytes > QUEUE_BYTES):
            return
        self._queue.append((record, buffers))
        self._queued_bytes += nbytes
        if self._timer is None and not self._failing:
            self._timer = self._loop.call_later(OUTCOMES_WAIT_S, self._commit)

    def _commit(self) -> None:
        if self._failing:  # the timer is that of the next attempt
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is None and self._queue and not self._failing and not self._closed:
            self._running = self._loop.create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._queue and not self._failing:
            await self._write_group()
        self._running = None

    async def _write_group(self) -> None:
        group, self._queue, self._queued_bytes = self._queue, [], 0
        numbers = tuple(record.number for record, _ in group if isinstance(record, Taken))
        try:
            await self._loop.run_in_executor(self._thread, self._file.append, group)
        except OSError as error:
            self._queue = [entry for entry in group if isinstance(entry[0], Freed)] + self._queue
            self._fails(numbers, error)
        else:
            if numbers:
                self._on_event(ev.Recorded(numbers))

    def _fails(self, numbers: tuple[int, ...], error: OSError) -> None:
        self._failing = True
        reason = error.strerror or type(error).__name__
        self._log.error("the journal cannot be written: requests with a key are refused", error=reason)
        waiting = tuple(record.number for record, _ in self._queue if isinstance(record, Taken))
        self._queue = [entry for entry in self._queue if isinstance(entry[0], Freed)]
        self._queued_bytes = 0
        self._on_event(ev.RecordingFailed((*numbers, *waiting), reason))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._timer = None
        if not self._closed:
            self._running = self._loop.create_task(self._make_room())

    async def _make_room(self) -> None:
        try:
            await self._loop.run_in_executor(self._thread, self._file.make_room)
        except OSError:
            self._timer = self._loop.call_later(RETRY_S, self._retry)
            self._running = None
            return
        self._failing = False
        self._log.info("the journal can be written again")
        self._on_event(ev.RecordingWorks())
        await self._write_all()

    def _requests(self, taken: Sequence[Span], ended: dict[int, Span]) -> Iterator[ev.RestoredRequest]:
        for span in taken:
            body, record = self._file.body(span), span.record
            if body is None or not isinstance(record, Taken):
                continue
            try:
                inputs = split_body(record.infer.inputs, memoryview(body))
                until, outcome = self._outcome(ended.get(record.number)) or (record.deadline_s, None)
            except InvalidInputError as error:
                self._log.error("a request of the journal cannot be read", error=error.message)
                continue
            at = until - time.time() + self._loop.time()
            yield ev.RestoredRequest(record.number, record.infer, inputs, at, outcome)

    def _outcome(self, span: Span | None) -> tuple[float, Outcome] | None:
        """The outcome, and until when it is kept."""
        body = None if span is None else self._file.body(span)
        if span is None or body is None or not isinstance(span.record, Ended):
            return None
        expires, result, error = span.record.expires_s, span.record.result, span.record.error
        if result is not None:
            return expires, Answered(result, tuple(split_body(result.outputs, memoryview(body))))
        return None if error is None else (expires, _error(error))


def _error(error: Error) -> StagelineError:
    restored = from_wire(error.code, error.message, node=error.node)
    return restored if isinstance(restored, FailedError) else FailedError(error.message, node=error.node)
