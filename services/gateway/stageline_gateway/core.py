"""What the parts of the engine share: the tables, the plan, the instructions of the event at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import msgspec

from stageline.data import DATA_VERSION, Buffer, Cancel
from stageline.errors import StagelineError
from stageline.passing import Passing
from stageline.plan import Endpoint
from stageline.protocol import Result
from stageline_gateway import events as ev
from stageline_gateway.batches import BatchTable
from stageline_gateway.batching import Batch
from stageline_gateway.capacity import Capacity
from stageline_gateway.early import Early
from stageline_gateway.held import KEPT, Answered, Outcome, Waiter
from stageline_gateway.idempotency import Keys
from stageline_gateway.inflight import HOLDER, Entry, InFlightTable, State
from stageline_gateway.observed import Observed
from stageline_gateway.queueing import ModelQueue
from stageline_gateway.routing import PlanView, Router, hops
from stageline_gateway.settings import Settings
from stageline_gateway.timers import Timer, Timers

TIMERS_KEPT = 10_000
"""Up to so many timers nobody looks whether they still matter."""


@dataclass
class Stats:
    """Counters since the start."""

    dispatched: int = 0
    on_standbys: int = 0
    retried: int = 0
    overdue: int = 0
    lost: int = 0
    damaged: int = 0
    spared: int = 0
    results_dropped: int = 0
    results_refused: int = 0
    attached: int = 0
    replayed: int = 0


@dataclass(frozen=True)
class Identity:
    """Who this gateway is to executors: `name` is unique per process start, `reply` is where results go.

    Ids of requests begin at `first`: by chance, so that several gateways tell apart whose request a crash concerns.
    `unix_s` added to its clock gives Unix time: executors compare the deadlines of several gateways. `started` is
    when, on its clock: requests wait for the first plan until `hold_s` after that.
    """

    name: str
    reply: Endpoint
    first: int = 1
    unix_s: float = 0.0
    started: float = -inf


class Core:
    """State and the few steps that every part needs."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings = settings
        self.identity = identity
        self.stats = Stats()
        self.observed = Observed()
        self.passing = Passing()
        self.view = PlanView()
        self.router = Router(self.view, settings.window, settings.window_bytes, identity.name)
        self.table = InFlightTable(settings.max_in_flight, settings.max_in_flight_bytes, identity.first)
        until = identity.started + settings.hold_s
        self.early = Early(settings.max_in_flight, settings.max_in_flight_bytes, until)
        self.keys = Keys(settings.answer_keep_s, settings.answer_keep_bytes, settings.max_in_flight)
        self.batches = BatchTable(self.router)
        self.queues: dict[str, ModelQueue] = {}
        self.capacities: dict[str, Capacity] = {}
        self.timers = Timers()
        self._kept_timer = False
        self.journal_fault = ""
        self.out: list[ev.Instruction] = []

    def emit(self, instruction: ev.Instruction) -> None:
        """Add an instruction to those of this event."""
        self.out.append(instruction)

    def dequeue(self, entry: Entry) -> bool:
        """Take a request out of its queue; False if it was not in it (it is dispatched, or backs off)."""
        queue = self.queues.get(entry.request.model)
        if queue is None or entry.key not in queue:
            return False
        queue.remove(entry.key)
        if not queue:
            del self.queues[entry.request.model]
        return True

    def capacity(self, model: str) -> Capacity:
        """How fast the model is answered."""
        return self.capacities.setdefault(model, Capacity())

    def waiting(self, model: str) -> int:
        """Items in the model's queue."""
        queue = self.queues.get(model)
        return queue.rows if queue is not None else 0

    def leave(self, entry: Entry) -> None:
        """A request has its outcome: take it out of the queue, the table and the batches."""
        self.dequeue(entry)
        self.table.leave(entry)
        for number in entry.batches:
            batch = self.batches.request_left(number, entry.key)
            if batch is not None and self.view.alive(batch.path[0]):
                self._abandon(batch)

    def _abandon(self, batch: Batch) -> None:
        path = hops(batch.model, batch.path, self.identity.reply.host)
        header = Cancel(DATA_VERSION, self.identity.name, (batch.id,), path)
        self.emit(ev.Abandon(path[0].address, header))

    def refuse(self, entry: Entry, error: StagelineError, now: float) -> None:
        """End a request with an error, all parts of it; harmless if it has ended."""
        request = entry.request
        if entry.state is State.DONE:
            return
        for part in self.table.parts(request.client, request.id):
            self.leave(part)
        if request.client == HOLDER:
            self.conclude(request.id, error, request.model, now)
            return
        self.emit(ev.Refuse(request.client, request.id, error, request.model, now - request.arrived))

    def answer(self, entry: Entry, result: Result, parts: Sequence[Buffer], now: float) -> None:
        """End a request with a result."""
        request = entry.request
        self.leave(entry)
        if request.client == HOLDER:
            self.conclude(request.id, Answered(result, tuple(parts)), request.model, now)
            return
        self.emit(ev.Answer(request.client, result, parts, request.model, now - request.arrived))

    def tell(self, waiter: Waiter, outcome: Outcome, model: str, now: float) -> None:
        """Give one of those who asked with the same key its outcome."""
        waited = now - waiter.arrived
        if not isinstance(outcome, Answered):
            self.emit(ev.Refuse(waiter.client, waiter.id, outcome, model, waited))
            return
        timings = outcome.result.timings if waiter.want_timings else None
        result = msgspec.structs.replace(outcome.result, id=waiter.id, timings=timings)
        self.emit(ev.Answer(waiter.client, result, outcome.buffers, model, waited))

    def wake_for_kept(self) -> None:
        """Ask for a wake-up when a kept outcome may be forgotten; one such timer is under way at a time."""
        expiry = self.keys.next_expiry()
        if expiry is not None and not self._kept_timer:
            self._kept_timer = True
            self.timers.add(expiry, Timer.KEPT)

    def forget_kept(self, now: float) -> None:
        """The wake-up came."""
        self._kept_timer = False
        self.keys.expire(now)
        self.wake_for_kept()

    def conclude(self, holder: int, outcome: Outcome, model: str, now: float) -> None:
        """End what is held by that number: tell those who wait."""
        for waiter in self.keys.conclude(holder, outcome, now):
            self.tell(waiter, outcome, model, now)
        if self.settings.journal and isinstance(outcome, KEPT):
            self.emit(ev.RecordOutcome(holder, outcome, now + self.settings.answer_keep_s))
        self.wake_for_kept()

    def drop_stale_timers(self) -> None:
        """Forget the timers of what has ended, once they outnumber the others by far."""
        if len(self.timers) > TIMERS_KEPT + 4 * len(self.table):
            self.timers.keep(self._matters)

    def _matters(self, what: Timer, key: int) -> bool:
        if what is Timer.OVERDUE:
            return self.batches.get(key) is not None
        if what is Timer.WAITER:
            return self.keys.waiter(key) is not None
        if what is Timer.RESTORED:
            return self.keys.held(key) is not None
        if what is Timer.EARLY:
            return key in self.early
        return what in (Timer.BATCH, Timer.KEPT, Timer.REACH) or self.table.get(key) is not None
