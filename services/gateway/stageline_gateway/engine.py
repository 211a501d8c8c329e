"""The gateway's decisions: events in, instructions out. No sockets, no clock: `now` comes with each event.

What holds after every event: each accepted request is in the table in exactly one state, and leaves it with exactly one
`Answer` or `Refuse`; credits are held by live batches only; the next timer was asked for with `WakeAt`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stageline.data import DATA_VERSION, Activation
from stageline.errors import CancelledError, RejectedError, StagelineError, UnavailableError
from stageline.plan import Endpoint, Epoch
from stageline.protocol import ModelInfo
from stageline_gateway import events as ev
from stageline_gateway.admission import admit, find_model, readmit
from stageline_gateway.batches import BatchTable
from stageline_gateway.batching import Batch, batch_cost, join, patience, shape_group
from stageline_gateway.inflight import Entry, InFlightTable, State
from stageline_gateway.outcomes import Outcomes
from stageline_gateway.queueing import ModelQueue, Waiting
from stageline_gateway.routing import Applied, PlanView, Router, hops, reply_address
from stageline_gateway.settings import Settings
from stageline_gateway.signature import BATCH, batchable, largest_batch
from stageline_gateway.timers import Timer, Timers


@dataclass
class Stats:
    """Counters since the start."""

    dispatched: int = 0
    retried: int = 0
    overdue: int = 0
    results_dropped: int = 0
    results_refused: int = 0


@dataclass(frozen=True)
class Identity:
    """Who this gateway is to executors: `name` is unique per process start, `reply` is where results go."""

    name: str
    reply: Endpoint

    @property
    def host(self) -> str:
        """Which executors can be reached over ipc."""
        return self.reply.host


class Engine:
    """See the module. Not thread-safe: one loop feeds it."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings = settings
        self.identity = identity
        self.stats = Stats()
        self.view = PlanView()
        self.router = Router(self.view, settings.window, settings.window_bytes)
        self.table = InFlightTable(settings.max_in_flight, settings.max_in_flight_bytes)
        self.batches = BatchTable(self.router)
        self.timers = Timers()
        self.draining = False
        self._queues: dict[str, ModelQueue] = {}
        self._out: list[ev.Instruction] = []
        self._asked: float | None = None
        self._batch_wakes: dict[str, float] = {}
        self._outcomes = Outcomes(self)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.RequestArrived: self._arrived,
            ev.CancelRequested: self._cancelled,
            ev.ClientGone: self._client_gone,
            ev.ResultArrived: self._outcomes.result,
            ev.FailureArrived: self._outcomes.failure,
            ev.PlanApplied: self._plan,
            ev.DigestApplied: self._digest,
            ev.Tick: self._tick,
            ev.DrainBegan: self._drain_began,
            ev.DrainEnded: self._drain_ended,
        }

    def handle(self, event: ev.Event, now: float) -> list[ev.Instruction]:
        """What to do about `event` at time `now` (seconds, never going back)."""
        self._out = []
        self._handlers[type(event)](event, now)
        self._timers_due(now)
        self._pump(now)
        self._ask_to_wake()
        return self._out

    def describe(self, name: str | None) -> list[ModelInfo]:
        """One model or all. Raises `ModelNotFoundError`, or `UnavailableError` before the first plan."""
        models = self.view.plan.models if self.view.plan and name is None else ()
        if name is not None:
            models = (find_model(self.view, name),)
        return [ModelInfo(m.name, m.status, m.signature, self.view.obstacle(m)) for m in models]

    @property
    def oldest_in_flight(self) -> Epoch | None:
        """The oldest epoch that batches are in flight on."""
        return self.batches.oldest_epoch()

    def queue_depths(self) -> dict[str, int]:
        """Requests that wait, by model."""
        return {name: len(queue) for name, queue in self._queues.items()}

    # --- what the outcomes ask for --------------------------------------------------------------------------

    def emit(self, instruction: ev.Instruction) -> None:
        """Add an instruction to those of this event."""
        self._out.append(instruction)

    def enqueue(self, entry: Entry, now: float) -> None:
        """Let a request wait for its dispatch, at its rank; or end it, if the model is no longer what it was."""
        try:
            entry.request = readmit(self.view, entry.request)
            signature = find_model(self.view, entry.request.model).signature
        except StagelineError as error:
            self.refuse(entry, error, now)
            return
        limit = largest_batch(signature, self.settings.max_batch)
        queue = self._queues.setdefault(entry.request.model, ModelQueue(limit, self.settings.batch_delay_s))
        queue.max_batch = limit
        alone = entry.alone or not batchable(signature)
        queue.push(shape_group(entry.request), Waiting(entry.rank, entry.key, entry.request.rows, now, alone))

    def dequeue(self, entry: Entry) -> bool:
        """Take a request out of its queue; False if it was not in it (it is dispatched, or backs off)."""
        queue = self._queues.get(entry.request.model)
        if queue is None or entry.key not in queue:
            return False
        queue.remove(entry.key)
        if not queue:
            del self._queues[entry.request.model]
            self._batch_wakes.pop(entry.request.model, None)
        return True

    def leave(self, entry: Entry) -> None:
        """A request has its outcome: take it out of the table, the queue and the batches."""
        self.dequeue(entry)
        self.table.leave(entry)
        for batch in entry.batches:
            self.batches.request_left(batch, entry.key)

    def refuse(self, entry: Entry, error: StagelineError, now: float) -> None:
        """End a request with an error."""
        request = entry.request
        self.leave(entry)
        self.emit(ev.Refuse(request.client, request.id, error, request.model, now - request.arrived))

    # --- clients --------------------------------------------------------------------------------------------

    def _arrived(self, event: ev.RequestArrived, now: float) -> None:
        client, infer = event.client, event.infer
        if self.table.find(client, infer.id) is not None:
            self.emit(ev.Disconnect(client, self._outcomes.duplicate(infer.id)))
            return
        known = ""
        try:
            if self.draining:
                raise RejectedError("this gateway is stopping: try another, or again later", retry_after_s=1.0)
            model = find_model(self.view, infer.model)
            known = model.name
            entry = self.table.add(admit(model, client, infer, event.buffers, now, self.settings.default_deadline_s))
        except StagelineError as error:
            self.emit(ev.Refuse(client, infer.id, error, known))
            return
        if infer.want_accepted:
            self.emit(ev.Accept(client, infer.id))
        self.timers.add(entry.request.deadline, Timer.DEADLINE, entry.key)
        self.enqueue(entry, now)

    def _cancelled(self, event: ev.CancelRequested, now: float) -> None:
        entry = self.table.find(event.client, event.id)
        if entry is not None:
            self.refuse(entry, CancelledError("the request was cancelled by its client"), now)

    def _client_gone(self, event: ev.ClientGone, now: float) -> None:
        for entry in self.table.of_client(event.client):
            self.refuse(entry, CancelledError("the client went away"), now)

    def _drain_began(self, event: ev.DrainBegan, now: float) -> None:
        self.draining = True

    def _drain_ended(self, event: ev.DrainEnded, now: float) -> None:
        for entry in self.table:
            self.refuse(entry, UnavailableError("the gateway stopped before the answer was there: try again"), now)

    # --- the plan -------------------------------------------------------------------------------------------

    def _plan(self, event: ev.PlanApplied, now: float) -> None:
        if self.view.apply_plan(event.plan) is Applied.STALE:
            return
        for batch in self.batches.live():
            if batch.epoch < self.view.epoch:
                batch.overdue_at = min(batch.overdue_at, now + self.settings.drain_s)
                self.timers.add(batch.overdue_at, Timer.OVERDUE, batch.id)
        self._outcomes.check_paths(now)
        self._outcomes.readmit(now)

    def _digest(self, event: ev.DigestApplied, now: float) -> None:
        applied = self.view.apply_digest(event.digest)
        if applied is Applied.BEHIND:
            self.emit(ev.FetchPlan())
        if applied is not Applied.STALE:
            self._outcomes.check_paths(now)

    # --- time and dispatch ----------------------------------------------------------------------------------

    def _tick(self, event: ev.Tick, now: float) -> None:
        self._asked = None  # an early tick must ask again

    def _timers_due(self, now: float) -> None:
        for what, key in self.timers.due(now):
            if what is Timer.DEADLINE:
                self._outcomes.deadline(key, now)
            elif what is Timer.OVERDUE:
                self._outcomes.overdue(key, now)
            elif what is Timer.BACKOFF:
                entry = self.table.get(key)
                if entry is not None and entry.state is State.QUEUED:
                    self.dequeue(entry)
                    self.enqueue(entry, now)

    def _pump(self, now: float) -> None:
        """Dispatch every ready batch that finds a path with credit."""
        for name in list(self._queues):
            while self._dispatch_next(name, now):
                pass
            queue = self._queues.get(name)
            wake = queue.wake_at(now) if queue else None
            if wake is not None and wake != self._batch_wakes.get(name):
                self._batch_wakes[name] = wake
                self.timers.add(wake, Timer.BATCH)

    def _dispatch_next(self, name: str, now: float) -> bool:
        queue, model = self._queues.get(name), self.view.model(name)
        members = queue.next_batch(now) if queue and model else []
        if queue is None or model is None or not members:
            return False
        entries = [entry for entry in map(self.table.get, (m.key for m in members)) if entry is not None]
        rows = tuple(entry.request.rows for entry in entries)
        cost = batch_cost(model, sum(entry.request.nbytes for entry in entries), sum(rows))
        path = self.router.find(model, cost)
        if path is None:
            return False
        attempt = 1 + max(entry.attempts for entry in entries)
        overdue_at = now + patience(model, sum(rows), self.router.ahead(path), attempt)
        sizes = entries[0].request.sizes if len(entries) == 1 else {**entries[0].request.sizes, BATCH: sum(rows)}
        keys = tuple(entry.key for entry in entries)
        batch = Batch(
            self.batches.next_id(), model, self.view.epoch, keys, rows, sizes, path, cost, now, overdue_at,
            pending=set(keys),
        )  # fmt: skip
        for entry in entries:
            self.dequeue(entry)
            self.table.dispatch(entry, batch.id, batch.epoch)
        self.batches.add(batch)
        self.timers.add(overdue_at, Timer.OVERDUE, batch.id)
        self._send(batch, entries, attempt)
        return True

    def _send(self, batch: Batch, entries: list[Entry], attempt: int) -> None:
        requests = [entry.request for entry in entries]
        values, buffers = join(requests)
        header = Activation(
            version=DATA_VERSION,
            gateway=self.identity.name,
            batch=batch.id,
            ids=batch.keys,
            rows=batch.rows,
            attempt=attempt,
            epoch=batch.epoch,
            path=hops(batch.model, batch.path, self.identity.host),
            hop=0,
            reply=reply_address(batch.path, self.identity.reply),
            values=values,
            priority=min(r.priority for r in requests),
            deadline_ns=int(max(r.deadline for r in requests) * 1e9),
            level=requests[0].level,
            trace=requests[0].trace,
        )
        self.stats.dispatched += 1
        self.emit(ev.Dispatch(header.path[0].address, header, buffers))

    def _ask_to_wake(self) -> None:
        wanted = self.timers.next()
        if wanted is not None and wanted != self._asked:
            self._asked = wanted
            self.emit(ev.WakeAt(wanted))
