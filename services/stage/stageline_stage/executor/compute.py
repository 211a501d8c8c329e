"""The main thread's work: take the most urgent batch, run its stage, say where the outcome goes."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

import msgspec
import torch

from stageline.data import DATA_VERSION, Activation, Buffer, Failure, Timing, encode_frames
from stageline.errors import StagelineError
from stageline.logs import Logger
from stageline.messages import Loaded, LoadFailed, Measured, Progress
from stageline_stage.blackbox import BlackBox
from stageline_stage.executor.device import Runner, Running
from stageline_stage.executor.measure import Measurement
from stageline_stage.executor.queue import Urgency, WorkQueue
from stageline_stage.executor.stages import Stages
from stageline_stage.executor.tensors import outgoing_values, received_values

MAX_REASON = 200
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Batch:
    """A batch that waits; `buffers` are the received frames, `arrived_s` is monotonic."""

    header: Activation
    buffers: Sequence[Any]
    arrived_s: float


Work = Union[Batch, Measurement]


@dataclass(frozen=True)
class Outgoing:
    """Frames for another executor or a gateway."""

    address: str
    frames: Sequence[Buffer]


Posted = Union[Outgoing, Loaded, LoadFailed, Measured]


class Outbox:
    """What other threads want the I/O thread to send; `fileno()` becomes readable when there is something."""

    def __init__(self) -> None:
        self._items: deque[Posted] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __len__(self) -> int:
        return len(self._items)

    def fileno(self) -> int:
        """For pollers."""
        return self._event

    def post(self, item: Posted) -> None:
        """Hand over an item, from any thread."""
        self._items.append(item)
        self.wake()

    def wake(self) -> None:
        """Make the I/O thread look."""
        os.eventfd_write(self._event, 1)

    def take(self) -> list[Posted]:
        """All items, oldest first."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        items: list[Posted] = []
        while self._items:
            items.append(self._items.popleft())
        return items


@dataclass(frozen=True)
class Activity:
    """What the main thread does, for heartbeats; replaced whole at every change."""

    items_done: int = 0
    busy_s: float = 0.0
    since_s: float = 0.0
    computing: tuple[int, ...] = ()

    def progress(self, executor: str, depth: int, now: float) -> Progress:
        """As heartbeats report it."""
        age = now - self.since_s if self.computing else 0.0
        return Progress(
            executor=executor, items_done=self.items_done, busy_s=self.busy_s, queue_depth=depth, current_age_s=age
        )


@dataclass(frozen=True)
class _InFlight:
    batch: Batch
    running: Running
    started_s: float


class Computer:
    """Runs in the main thread until the queue is closed and empty."""

    def __init__(
        self,
        *,
        node: str,
        executor: str,
        queue: WorkQueue[Work],
        stages: Stages,
        runner: Runner,
        outbox: Outbox,
        blackbox: BlackBox,
        log: Logger,
    ) -> None:
        self._node, self._executor = node, executor
        self._queue, self._stages, self._runner = queue, stages, runner
        self._outbox, self._blackbox, self._log = outbox, blackbox, log
        self._in_flight: deque[_InFlight] = deque()
        self.activity = Activity()

    def run(self) -> None:
        """Compute until there is nothing left and nothing more to come."""
        with torch.inference_mode():
            while True:
                work = self._queue.take(wait=not self._in_flight)
                if work is None and not self._in_flight:
                    return
                if isinstance(work, Batch):
                    self._start(work)
                elif isinstance(work, Measurement):
                    self._measure(work)
                if self._in_flight and (work is None or len(self._in_flight) >= self._runner.depth):
                    self._finish(self._in_flight.popleft())

    def _measure(self, work: Measurement) -> None:
        while self._in_flight:
            self._finish(self._in_flight.popleft())
        if work.step():
            self._queue.put(Urgency.of_measurement(), work)
        else:
            self._outbox.post(work.answer)

    def _start(self, batch: Batch) -> None:
        header = batch.header
        key = header.path[header.hop].stage
        stage = self._stages.get(key)
        if stage is None:
            self._fail(batch, "not_loaded", f"stage {key} is not loaded here", retryable=True)
            return
        now = time.monotonic()
        self._note([*(entry.batch for entry in self._in_flight), batch], now)
        try:
            running = self._runner.start(stage, received_values(header.values, batch.buffers))
        except Exception as error:  # the stage may raise anything; it must not end the executor
            self._failed(batch, error)
            self._note([entry.batch for entry in self._in_flight], time.monotonic())
            return
        self._in_flight.append(_InFlight(batch, running, now))

    def _finish(self, entry: _InFlight) -> None:
        try:
            outputs, seconds = entry.running.wait()
            outgoing = next_message(entry.batch.header, outputs, entry.started_s - entry.batch.arrived_s, seconds)
            self.activity = replace(
                self.activity,
                items_done=self.activity.items_done + len(entry.batch.header.ids),
                busy_s=self.activity.busy_s + seconds,
            )
            self._outbox.post(outgoing)
        except Exception as error:  # as above; on CUDA an error of a kernel appears here
            self._failed(entry.batch, error)
        self._note([other.batch for other in self._in_flight], time.monotonic())

    def _note(self, batches: Sequence[Batch], now: float) -> None:
        ids = tuple(i for batch in batches for i in batch.header.ids)
        self._blackbox.write(ids)
        self.activity = replace(self.activity, computing=ids, since_s=now)

    def _failed(self, batch: Batch, error: Exception) -> None:
        header = batch.header
        self._log.warning("a batch failed", batch=header.batch, gateway=header.gateway, error=repr(error)[:1000])
        key = header.path[header.hop].stage
        self._fail(batch, "failed", f"stage {key} failed: {reason_of(error)}", retryable=is_out_of_memory(error))

    def _fail(self, batch: Batch, code: str, message: str, *, retryable: bool) -> None:
        failure = failure_of(batch.header, code, message, self._node, self._executor, retryable=retryable)
        self._outbox.post(failure)


def next_message(header: Activation, outputs: Sequence[Any], queued_s: float, computed_s: float) -> Outgoing:
    """The outcome of a stage, addressed to the next hop, or after the last to the gateway."""
    values, buffers = outgoing_values(outputs)
    timing = Timing(queue_us=max(0, round(queued_s * 1e6)), compute_us=max(0, round(computed_s * 1e6)))
    following = msgspec.structs.replace(header, hop=header.hop + 1, values=values, timings=(*header.timings, timing))
    address = header.reply if following.finished else header.path[following.hop].address
    return Outgoing(address, encode_frames(following, buffers))


def failure_of(header: Activation, code: str, message: str, node: str, executor: str, *, retryable: bool) -> Outgoing:
    """A `Failure` of the batch, addressed to its gateway."""
    failure = Failure(
        version=DATA_VERSION,
        gateway=header.gateway,
        batch=header.batch,
        attempt=header.attempt,
        code=code,
        message=message,
        node=node,
        executor=executor,
        retryable=retryable,
    )
    return Outgoing(header.reply, encode_frames(failure))


def is_out_of_memory(error: Exception) -> bool:
    """Whether another executor, or this one later, may well have the memory that was missing."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(hint in text for hint in _OUT_OF_MEMORY)


def reason_of(error: Exception) -> str:
    """One line for a client: what went wrong, without a path of this machine."""
    line = next(iter(str(error).splitlines()), "")[:MAX_REASON]
    if isinstance(error, StagelineError) or (line and "/" not in line and "\\" not in line):
        return line
    return type(error).__name__
