"""The main thread's work: take the most urgent batch, run its stage, say where the outcome goes."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import NamedTuple

import msgspec
import torch

from stageline.logs import Logger
from stageline.messages import Progress
from stageline_stage.blackbox import BlackBox
from stageline_stage.executor.batches import Batch, Work, failure_of, is_out_of_memory, next_message, reason_of
from stageline_stage.executor.device import Runner, Running
from stageline_stage.executor.measure import Measurement
from stageline_stage.executor.memory import give_back
from stageline_stage.executor.outbox import Outbox
from stageline_stage.executor.queue import OF_MEASUREMENT, WorkQueue
from stageline_stage.executor.stages import LoadedStage, Stages
from stageline_stage.executor.sustain import Sustained
from stageline_stage.executor.tensors import received_values
from stageline_stage.executor.traffic import Traffic
from stageline_stage.resources import cpu_quota

LONG_S = 0.001
"""While a stage runs that took so long the last time, the I/O thread has the data sockets."""


_NOTHING: tuple[float, tuple[int, ...]] = (0.0, ())
"""Since when (monotonic seconds) which requests are computed."""


class Activity(NamedTuple):
    """What the main thread does, for heartbeats."""

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


class _InFlight(msgspec.Struct, frozen=True):
    batch: Batch
    stage: LoadedStage
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
        traffic: Traffic,
        outbox: Outbox,
        blackbox: BlackBox,
        log: Logger,
    ) -> None:
        self._node, self._executor = node, executor
        self._queue, self._stages, self._runner = queue, stages, runner
        self._traffic, self._outbox, self._blackbox, self._log = traffic, outbox, blackbox, log
        self._in_flight: deque[_InFlight] = deque()
        self._quota = cpu_quota()
        self._items_done, self._busy_s = 0, 0.0
        self._computing = _NOTHING

    @property
    def activity(self) -> Activity:
        """For any thread."""
        since_s, ids = self._computing
        return Activity(self._items_done, self._busy_s, since_s, ids)

    def run(self) -> None:
        """Compute until there is nothing left and nothing more to come."""
        with torch.inference_mode():
            while True:
                # With nothing to choose from no look is taken before `wait`, which receives at once what is there.
                if self._traffic.full or (not self._queue.depth and (self._in_flight or not self._queue.empty)):
                    self._traffic.turn()
                ended = self._queue.closed
                work = self._queue.take()
                if isinstance(work, Batch):
                    self._start(work)
                elif isinstance(work, Measurement):
                    self._measure(work)
                elif not self._in_flight:
                    if ended:
                        self._traffic.turn()  # refuses what has come meanwhile
                        return
                    self._traffic.wait()
                if self._in_flight and (work is None or len(self._in_flight) >= self._runner.depth):
                    self._finish(self._in_flight.popleft())

    def _measure(self, work: Measurement) -> None:
        while self._in_flight:
            self._finish(self._in_flight.popleft())
        if self._traffic.while_lent(work.step):
            self._queue.put(OF_MEASUREMENT, work, tell=False)
        else:
            self._outbox.post(work.answer)
            self._traffic.while_lent(give_back)

    def _start(self, batch: Batch) -> None:
        header = batch.header
        cancelled = self._traffic.cancelled
        if cancelled.batches and cancelled.take(header.gateway, header.batch):
            self._fail(batch, "cancelled", "nobody waits for the batch any more", retryable=False)
            return
        key = header.path[header.hop].stage
        stage = self._stages.get(key)
        if stage is None:
            self._fail(batch, "not_loaded", f"stage {key} is not loaded here", retryable=True)
            return
        now = time.monotonic()
        self._note(header.ids, now)
        try:
            if stage.seconds < LONG_S:
                running = self._begin(stage, batch)
            else:
                running = self._traffic.while_lent(partial(self._begin, stage, batch))
        except Exception as error:  # the stage may raise anything; it must not end the executor
            self._failed(batch, error)
            self._ended(header.gateway, now)
            return
        self._in_flight.append(_InFlight(batch, stage, running, now))

    def _begin(self, stage: LoadedStage, batch: Batch) -> Running:
        return self._runner.start(stage.call, received_values(batch.header.values, batch.buffers))

    def _finish(self, entry: _InFlight) -> None:
        batch, stage, running = entry.batch, entry.stage, entry.running
        header = batch.header
        try:
            if self._runner.depth > 1 and stage.seconds >= LONG_S:
                outputs, seconds = self._traffic.while_lent(running.wait)
            else:
                outputs, seconds = running.wait()
            sustained_s = self._sustain(stage, seconds, running.processor_s) if running.processor_s else 0.0
            outgoing = next_message(header, outputs, entry.started_s - batch.arrived_s, seconds, sustained_s)
            stage.seconds = seconds
            self._items_done += len(header.ids)
            self._busy_s += seconds
            self._traffic.send(outgoing, header)
        except Exception as error:  # as above; on CUDA an error of a kernel appears here
            self._failed(batch, error)
        self._ended(header.gateway, entry.started_s)

    def _ended(self, gateway: str, started_s: float) -> None:
        """A batch is done, well or not."""
        now = time.monotonic()
        self._queue.charge(gateway, now - started_s)
        if self._in_flight:
            self._note((), now)
        else:
            self._blackbox.clear()
            self._computing = _NOTHING

    def _sustain(self, stage: LoadedStage, seconds: float, processor_s: float) -> float:
        """What the batch counts for under a CPU quota."""
        if stage.sustained is None:
            stage.sustained = Sustained(self._quota)
        return stage.sustained.add(seconds, processor_s)

    def _note(self, ids: tuple[int, ...], now: float) -> None:
        """Say what is computed: these requests and those in flight."""
        if self._in_flight:
            ids += tuple(i for entry in self._in_flight for i in entry.batch.header.ids)
        self._blackbox.write(ids)
        self._computing = (now, ids)

    def _failed(self, batch: Batch, error: Exception) -> None:
        header = batch.header
        self._log.warning("a batch failed", batch=header.batch, gateway=header.gateway, error=repr(error)[:1000])
        text = f"stage {header.path[header.hop].stage} failed: {reason_of(error)}"
        starved = is_out_of_memory(error)
        self._fail(batch, "out_of_memory" if starved else "failed", text, retryable=starved)

    def _fail(self, batch: Batch, code: str, message: str, *, retryable: bool) -> None:
        failure = failure_of(batch.header, code, message, self._node, self._executor, retryable=retryable)
        self._traffic.send(failure, batch.header)
