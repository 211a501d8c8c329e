"""From the queues to the first stage: which requests share a batch, which path it takes, what its header says."""

from __future__ import annotations

from stageline.data import DATA_VERSION, Activation
from stageline.errors import StagelineError
from stageline.plan import ModelPlan
from stageline_gateway import events as ev
from stageline_gateway.admission import find_model, readmit
from stageline_gateway.batching import Batch, Path, batch_cost, fair_share, join, patience, shape_group
from stageline_gateway.core import Core
from stageline_gateway.deadlines import too_late
from stageline_gateway.inflight import Entry, State
from stageline_gateway.queueing import ModelQueue, Waiting
from stageline_gateway.routing import hops, reply_address
from stageline_gateway.signature import BATCH, batchable, largest_batch
from stageline_gateway.timers import Timer


class Dispatcher:
    """Lets requests wait, and sends them on as soon as their batch is ready and a path has credit."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wakes: dict[str, float] = {}
        self._try_at = 0.0

    def enqueue(self, entry: Entry, now: float) -> None:
        """Let a request wait for its dispatch, at its rank; or end it, if the model is no longer what it was."""
        core = self._core
        try:
            entry.request = readmit(core.view, entry.request)
            signature = find_model(core.view, entry.request.model).signature
        except StagelineError as error:
            core.refuse(entry, error, now)
            return
        limit = largest_batch(signature, core.settings.max_batch, entry.request.sizes)
        limit = min(limit, entry.most or limit)
        queue = core.queues.setdefault(entry.request.model, ModelQueue(core.settings.batch_delay_s))
        alone = entry.alone or not batchable(signature)
        group = (entry.most, shape_group(entry.request))
        queue.push(group, Waiting(entry.rank, entry.key, entry.request.rows, now, limit, alone))

    def requeue(self, key: int, now: float) -> None:
        """A request has waited long enough after a failure."""
        entry = self._core.table.get(key)
        if entry is not None and entry.state is State.QUEUED:
            self._core.dequeue(entry)
            self.enqueue(entry, now)

    def enqueue_again(self, entry: Entry, now: float) -> None:
        """How it may be dispatched has changed; if it waits, it waits on that way."""
        if entry.state is State.QUEUED and self._core.dequeue(entry):
            self.enqueue(entry, now)

    def readmit(self, now: float) -> None:
        """After a new plan: what waits is checked against the model as it is now."""
        for entry in self._core.table:
            self.enqueue_again(entry, now)

    def pump(self, now: float) -> None:
        """Dispatch every ready batch that finds a path with credit."""
        for name in list(self._core.queues):
            while self._dispatch_next(name, now):
                pass
            queue = self._core.queues.get(name)
            wake = queue.wake_at(now) if queue else None
            if wake is not None and wake != self._wakes.get(name):
                self._wakes[name] = wake
                self._core.timers.add(wake, Timer.BATCH)

    def _dispatch_next(self, name: str, now: float) -> bool:
        core, model = self._core, self._core.view.model(name)
        queue = core.queues.get(name)
        if queue is None or model is None:
            return False
        share = fair_share(queue.rows + core.batches.items(name), len(model.stages))
        waiting = queue.next_batch(now, share)
        entries = [entry for entry in (core.table.get(w.key) for w in waiting) if entry is not None]
        if not entries:
            return False
        if self._drop_late(entries, now):
            return True
        rows = sum(entry.request.rows for entry in entries)
        cost = batch_cost(model, sum(entry.request.nbytes for entry in entries), rows)
        path = core.router.find(model, cost, now)
        if path is None:
            self._wait_for_links()
            return False
        attempt = 1 + max(entry.attempts for entry in entries)
        batch = self._batch(model, entries, path, cost, attempt, now)
        for entry in entries:
            core.dequeue(entry)
            core.table.dispatch(entry, batch.id)
        core.batches.add(batch)
        core.timers.add(batch.overdue_at, Timer.OVERDUE, batch.id)
        self._send(batch, entries, attempt)
        return True

    def _wait_for_links(self) -> None:
        """Look again when a stalled link may be tried, if it was that."""
        wake = self._core.router.stalled.next_try()
        if wake is not None and wake != self._try_at:
            self._try_at = wake
            self._core.timers.add(wake, Timer.BATCH)

    def _drop_late(self, entries: list[Entry], now: float) -> bool:
        late = [(entry, error) for entry in entries if (error := too_late(self._core, entry, now)) is not None]
        for entry, error in late:
            self._core.refuse(entry, error, now)
        return bool(late)

    def _batch(self, model: ModelPlan, entries: list[Entry], path: Path, cost: int, attempt: int, now: float) -> Batch:
        core, first = self._core, entries[0].request
        keys = tuple(entry.key for entry in entries)
        rows = tuple(entry.request.rows for entry in entries)
        return Batch(
            id=core.batches.next_id(),
            model=model,
            epoch=core.view.epoch,
            keys=keys,
            rows=rows,
            sizes=first.sizes if len(entries) == 1 else {**first.sizes, BATCH: sum(rows)},
            path=path,
            nbytes=cost,
            sent=now,
            overdue_at=now + patience(model, sum(rows), core.router.ahead(path), attempt),
            rank=(min(entry.request.priority for entry in entries), max(entry.request.deadline for entry in entries)),
            pending=set(keys),
        )

    def _send(self, batch: Batch, entries: list[Entry], attempt: int) -> None:
        core, requests = self._core, [entry.request for entry in entries]
        values, buffers = join(requests)
        header = Activation(
            version=DATA_VERSION,
            gateway=core.identity.name,
            batch=batch.id,
            ids=batch.keys,
            rows=batch.rows,
            attempt=attempt,
            epoch=batch.epoch,
            path=hops(batch.model, batch.path, core.identity.reply.host),
            hop=0,
            reply=reply_address(batch.path, core.identity.reply),
            values=values,
            priority=batch.rank[0],
            deadline_ns=int((batch.rank[1] + core.identity.unix_s) * 1e9),
            level=requests[0].level,
            trace=requests[0].trace,
            reply_checked=core.identity.reply.checked_from(batch.path[-1].endpoint.host),
            sent_us=int(batch.sent * 1e6),
        )
        core.stats.dispatched += 1
        stages = zip(batch.model.stages, batch.path, strict=True)
        core.stats.on_standbys += any(replica not in stage.replicas for stage, replica in stages)
        core.passing.went(header.gateway, header.path[0].executor, batch.id, batch.nbytes)
        core.emit(ev.Dispatch(header.path[0].address, header, buffers))
