"""What the parts of the engine share: the tables, the plan, the instructions of the event at hand."""

from __future__ import annotations

from dataclasses import dataclass

from stageline.errors import StagelineError
from stageline.plan import Endpoint
from stageline_gateway import events as ev
from stageline_gateway.batches import BatchTable
from stageline_gateway.inflight import Entry, InFlightTable
from stageline_gateway.queueing import ModelQueue
from stageline_gateway.routing import PlanView, Router
from stageline_gateway.settings import Settings
from stageline_gateway.timers import Timer, Timers

TIMERS_KEPT = 10_000
"""Up to so many timers nobody looks whether they still matter."""


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


class Core:
    """State and the few steps that every part needs."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings = settings
        self.identity = identity
        self.stats = Stats()
        self.view = PlanView()
        self.router = Router(self.view, settings.window, settings.window_bytes)
        self.table = InFlightTable(settings.max_in_flight, settings.max_in_flight_bytes)
        self.batches = BatchTable(self.router)
        self.queues: dict[str, ModelQueue] = {}
        self.timers = Timers()
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

    def leave(self, entry: Entry) -> None:
        """A request has its outcome: take it out of the queue, the table and the batches."""
        self.dequeue(entry)
        self.table.leave(entry)
        for batch in entry.batches:
            self.batches.request_left(batch, entry.key)

    def refuse(self, entry: Entry, error: StagelineError, now: float) -> None:
        """End a request with an error."""
        request = entry.request
        self.leave(entry)
        self.emit(ev.Refuse(request.client, request.id, error, request.model, now - request.arrived))

    def drop_stale_timers(self) -> None:
        """Forget the timers of what has ended, once they outnumber the others by far."""
        if len(self.timers) > TIMERS_KEPT + 4 * len(self.table):
            self.timers.keep(self._matters)

    def _matters(self, what: Timer, key: int) -> bool:
        if what is Timer.OVERDUE:
            return self.batches.get(key) is not None
        return what is Timer.BATCH or self.table.get(key) is not None
