"""How a dispatched batch ends: a result, a failure, its path's death, or nothing for too long."""

from __future__ import annotations

import msgspec

from stageline.data import Activation, Failure, Tensor
from stageline.errors import DeadlineError, FailedError, StagelineError, UnavailableError
from stageline.plan import ModelPlan
from stageline.protocol import Result, StageTiming, Timings
from stageline_gateway import events as ev
from stageline_gateway.batching import Batch, split
from stageline_gateway.core import Core
from stageline_gateway.dispatch import Dispatcher
from stageline_gateway.inflight import HOLDER, Entry, State
from stageline_gateway.signature import check_outputs
from stageline_gateway.timers import Timer

OUT_OF_MEMORY = "out_of_memory"
"""The `code` of a failure for want of memory."""
DAMAGED = "damaged"
"""The `code` of a failure for a checksum that does not fit."""
CANCELLED = "cancelled"
"""The `code` of a failure for a batch that was not computed because nobody waited for it."""
BACKOFF_S = 0.05
"""Before a request goes out again after a failure; doubled each time, so that a broken stage is not hammered."""


class Outcomes:
    """The half of the engine that ends or repeats what was dispatched."""

    def __init__(self, core: Core, dispatcher: Dispatcher) -> None:
        self._core = core
        self._dispatcher = dispatcher

    # --- results --------------------------------------------------------------------------------------------

    def result(self, event: ev.ResultArrived, now: float) -> None:
        """The first valid result answers; what nobody waits for is dropped."""
        core, header = self._core, event.header
        if header.gateway == core.identity.name and header.path:
            core.passing.came(header.gateway, header.path[-1].executor, header.batch)
            if header.sent_us:
                nbytes = sum(memoryview(buffer).nbytes for buffer in event.buffers)
                core.passing.took(header.path[-1].executor, header.sent_us, now, nbytes)
        batch = self._batch_of(header)
        if batch is None:
            core.stats.results_dropped += 1
            return
        problem = _mismatch(header, batch) or check_outputs(batch.model.signature, header.values, batch.sizes)
        if problem:
            core.stats.results_refused += 1
            self._repeat(batch, now, f"a stage returned a result that does not fit: {problem}", backoff=True)
            return
        core.router.trust(batch.path)
        core.observed.add(batch, header.timings)
        lost = core.batches.back(batch)
        name = batch.model.name
        core.capacity(name).answered(sum(batch.rows), batch.sent, now, waiting=core.waiting(name) > 0)
        start = 0
        for key, rows in zip(batch.keys, batch.rows, strict=True):
            entry = core.table.get(key)
            if entry is not None:
                self._answer(entry, batch, event, (start, rows), now)
            start += rows
        core.batches.finish(batch)
        for other in lost:
            self._lost(other, now, "a connection between workers broke")

    def _answer(self, entry: Entry, batch: Batch, event: ev.ResultArrived, part: tuple[int, int], now: float) -> None:
        request = entry.request
        tensors = [value for value in event.header.values if isinstance(value, Tensor)]
        specs, views = split(batch.model.signature.outputs, tensors, event.buffers, *part)
        timings = _timings(entry, batch, event.header, now) if request.want_timings else None
        answer = Result(request.id, specs, sum(batch.rows), entry.attempts, event.header.level, timings)
        kept = request.client == HOLDER and len(batch.keys) > 1
        parts = [bytes(view) for view in views] if kept else views  # what is kept must not keep the whole batch
        if entry.whole is None:
            self._core.answer(entry, answer, parts, now)
            return
        try:
            joined = entry.whole.take(entry.number, batch.model.manifest, answer, parts)
        except StagelineError as error:
            self._core.refuse(entry, error, now)
            return
        if joined is None:
            self._core.leave(entry)
        else:
            self._core.answer(entry, *joined, now)

    def _batch_of(self, header: Activation | Failure) -> Batch | None:
        return self._core.batches.get(header.batch) if header.gateway == self._core.identity.name else None

    # --- failures -------------------------------------------------------------------------------------------

    def failure(self, event: ev.FailureArrived, now: float) -> None:
        """Repeat what another try may cure; a batch that fails as such is repeated one request at a time."""
        core, failure = self._core, event.failure
        if failure.gateway == core.identity.name:
            core.passing.came(failure.gateway, failure.executor, failure.batch)
        batch = self._batch_of(failure)
        if batch is None or not batch.live:
            core.stats.results_dropped += 1
            return
        failure = _for_clients(failure, batch.model)
        if failure.code == OUT_OF_MEMORY and len(batch.keys) > 1:
            self._halve(batch, failure, now)
            return
        batch.over = True
        if failure.code == CANCELLED:
            core.stats.spared += 1
            self._repeat(batch, now, failure.message)  # nobody should be waiting
            return
        if failure.code == DAMAGED:
            self._damaged(batch, now)
            return
        if failure.retryable:
            core.router.blame(tuple(r for r in batch.path if r.executor == failure.executor), now)
            self._repeat(batch, now, failure.message, node=failure.node, backoff=True)
            return
        waiting = self._current(batch)
        core.batches.finish(batch)
        for entry in waiting:
            if len(batch.keys) > 1:
                entry.alone = True
                self._again(entry, now, failure.message, node=failure.node)
            else:
                core.refuse(entry, _as_error(failure), now)

    def damaged(self, event: ev.DamagedArrived, now: float) -> None:
        """What an executor answered was damaged on its way here."""
        batch = self._batch_of(event.header)
        if batch is not None and batch.live:
            self._damaged(batch, now)

    def _damaged(self, batch: Batch, now: float) -> None:
        """Nobody is to blame but the link; what is damaged again and again waits for better times."""
        self._core.stats.damaged += 1
        again = any(entry.attempts > 1 for entry in self._current(batch))
        self._repeat(batch, now, "its data were damaged on the way between workers", backoff=again)

    def _halve(self, batch: Batch, failure: Failure, now: float) -> None:
        """The batch took more memory than there was: smaller ones may do."""
        for entry in self._current(batch):
            entry.most = max(1, sum(batch.rows) // 2)
        self._repeat(batch, now, failure.message, node=failure.node)

    def check_paths(self, now: float) -> None:
        """Repeat every batch whose path has lost a replica, or may have, where there is a path that has not."""
        view = self._core.view
        for batch in self._core.batches.live():
            dead = next((r for r in batch.path if not view.alive(r)), None)
            doubtful = dead or next((r for r in batch.path if view.doubtful(r)), None)
            model = view.model(batch.model.name)
            if dead is not None:
                self._repeat(batch, now, "the worker died", node=dead.node)
            elif doubtful is not None and model is not None and view.certain(model):
                self._repeat(batch, now, "the worker cannot be reached", node=doubtful.node)

    def check_links(self, now: float) -> None:
        """Repeat every batch whose path leads over a link that is newly found to have let nothing through."""
        stalled = self._core.router.stalled
        fresh = stalled.update(self._core.view.stalled, now)
        for batch in self._core.batches.live() if fresh else ():
            if stalled.crosses(batch, fresh):
                self._lost(batch, now, "a link between workers let nothing through")

    def _lost(self, batch: Batch, now: float, reason: str) -> None:
        self._core.stats.lost += 1
        self._repeat(batch, now, reason)

    def overdue(self, batch_id: int, now: float) -> None:
        """A batch that is not back in time is sent again, to be safe."""
        batch = self._core.batches.get(batch_id)
        if batch is None or not batch.live:
            return
        self._core.stats.overdue += 1
        self._core.router.blame(batch.path, now)
        self._repeat(batch, now, "no worker answered in time")

    def deadline(self, key: int, now: float) -> None:
        """The request's time is over, whatever it waits for."""
        core, entry = self._core, self._core.table.get(key)
        if entry is None or entry.request.deadline > now:
            return
        model = core.view.model(entry.request.model)
        obstacle = core.view.obstacle(model) if model is not None else ""
        allowed = entry.request.deadline - entry.request.arrived
        error: StagelineError
        if entry.state is State.QUEUED and obstacle:
            error = UnavailableError(
                f"model {entry.request.model!r} cannot be served: {obstacle} (waited {allowed:.3g} s)",
                retry_after_s=1.0,
            )
        else:
            where = "in the queue" if entry.state is State.QUEUED else "while it was computed"
            error = DeadlineError(f"the deadline of {allowed:.3g} s passed {where}")
        core.refuse(entry, error, now)

    def hasten_old(self, now: float) -> None:
        """A newer plan is in force: what is still on an older one when it is retired must be sent again."""
        core = self._core
        for batch in core.batches.live():
            if batch.epoch < core.view.epoch:
                batch.overdue_at = min(batch.overdue_at, now + core.settings.drain_s)
                core.timers.add(batch.overdue_at, Timer.OVERDUE, batch.id)

    # --- again ----------------------------------------------------------------------------------------------

    def _current(self, batch: Batch) -> list[Entry]:
        entries = [self._core.table.get(key) for key in batch.keys]
        return [entry for entry in entries if entry is not None and entry.current == batch.id]

    def _repeat(self, batch: Batch, now: float, reason: str, *, node: str | None = None, backoff: bool = False) -> None:
        waiting = self._current(batch)
        self._core.batches.give_up(batch)
        for entry in waiting:
            self._again(entry, now, reason, node=node, backoff=backoff)

    def _again(self, entry: Entry, now: float, reason: str, *, node: str | None, backoff: bool = False) -> None:
        core = self._core
        if entry.state is State.DONE:
            return  # with another part of its request
        if entry.attempts >= core.settings.max_attempts:
            text = f"the request failed {entry.attempts} times; the last time: {reason}"
            core.refuse(entry, FailedError(text, node=node), now)
            return
        core.stats.retried += 1
        core.table.requeue(entry)
        if backoff:
            core.timers.add(now + BACKOFF_S * 2 ** (entry.attempts - 1), Timer.BACKOFF, entry.key)
        else:
            self._dispatcher.enqueue(entry, now)


def _mismatch(header: Activation, batch: Batch) -> str:
    if not header.finished or header.ids != batch.keys or header.rows != batch.rows:
        return "it is not the batch that was sent"
    return ""


def _for_clients(failure: Failure, model: ModelPlan) -> Failure:
    """Its stage as clients know it: executors know a stage only by the digest of its model."""
    message = failure.message
    for number, stage in enumerate(model.stages):
        message = message.replace(f"stage {model.key(stage)}", f"stage {number} of {model.name!r}")
    return msgspec.structs.replace(failure, message=message)


def _as_error(failure: Failure) -> StagelineError:
    if failure.code == DeadlineError.code:
        return DeadlineError(failure.message, node=failure.node)
    return FailedError(failure.message, node=failure.node)


def _timings(entry: Entry, batch: Batch, header: Activation, now: float) -> Timings:
    arrived = entry.request.arrived
    return Timings(
        queue_us=int((batch.sent - arrived) * 1e6),
        batch_us=int((now - batch.sent) * 1e6),
        total_us=int((now - arrived) * 1e6),
        stages=tuple(StageTiming(t.queue_us, t.compute_us) for t in header.timings),
    )
