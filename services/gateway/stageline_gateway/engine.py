"""The gateway's decisions: events in, instructions out. No sockets, no clock: `now` comes with each event.

What holds after every event: each accepted request is in the table in exactly one state, and leaves it with exactly one
`Answer` or `Refuse`; credits are held by live batches only; the next timer was asked for with `WakeAt`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stageline.messages import Passage, StageTime
from stageline.plan import Epoch, Plan
from stageline.protocol import ModelInfo
from stageline_gateway import events as ev
from stageline_gateway.admission import find_model
from stageline_gateway.arrivals import Arrivals
from stageline_gateway.core import Core, Identity, Stats
from stageline_gateway.dispatch import Dispatcher
from stageline_gateway.inflight import State
from stageline_gateway.journaling import Journaling
from stageline_gateway.outcomes import Outcomes
from stageline_gateway.reach import Reach
from stageline_gateway.routing import Applied, addresses, entrances
from stageline_gateway.settings import Settings
from stageline_gateway.suspects import Suspects
from stageline_gateway.timers import Timer


class Engine:
    """See the module. Not thread-safe: one loop feeds it."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._core = Core(settings, identity)
        self._dispatcher = Dispatcher(self._core)
        self._outcomes = Outcomes(self._core, self._dispatcher)
        self._suspects = Suspects(self._core, self._dispatcher)
        self._reach = Reach(self._core, self._outcomes)
        self._arrivals = Arrivals(self._core, self._dispatcher)
        self._journaling = Journaling(self._core, self._arrivals.begin)
        self._asked: float | None = None
        self._looks = 0
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.RequestArrived: self._arrivals.arrived,
            ev.CancelRequested: self._arrivals.cancelled,
            ev.ClientGone: self._arrivals.client_gone,
            ev.ResultArrived: self._outcomes.result,
            ev.FailureArrived: self._outcomes.failure,
            ev.DamagedArrived: self._outcomes.damaged,
            ev.PlanApplied: self._plan,
            ev.DigestApplied: self._digest,
            ev.LinkChanged: self._reach.changed,
            ev.Tick: self._tick,
            ev.DrainBegan: self._arrivals.drain_began,
            ev.DrainEnded: self._arrivals.drain_ended,
            ev.Restored: self._journaling.restored,
            ev.Recorded: self._journaling.recorded,
            ev.RecordingFailed: self._journaling.failed,
            ev.RecordingWorks: self._journaling.works,
        }
        self._timer_handlers: dict[Timer, Callable[[int, float], None]] = {
            Timer.DEADLINE: self._outcomes.deadline,
            Timer.OVERDUE: self._outcomes.overdue,
            Timer.BACKOFF: self._dispatcher.requeue,
            Timer.BATCH: lambda key, now: None,
            Timer.WAITER: self._arrivals.waited,
            Timer.KEPT: lambda key, now: self._core.forget_kept(now),
            Timer.RESTORED: self._journaling.late,
            Timer.REACH: lambda key, now: self._reach.look(now),
            Timer.EARLY: self._arrivals.held_too_long,
        }

    def handle(self, event: ev.Event, now: float) -> list[ev.Instruction]:
        """What to do about `event` at time `now` (seconds, never going back)."""
        core = self._core
        core.out = []
        self._handlers[type(event)](event, now)
        for what, key in core.timers.due(now):
            self._timer_handlers[what](key, now)
        self._dispatcher.pump(now)
        core.drop_stale_timers()
        self._free()
        self._ask_to_wake()
        return core.out

    # --- what the shell may look at -------------------------------------------------------------------------

    def describe(self, name: str | None = None) -> list[ModelInfo]:
        """One model or all. Raises `ModelNotFoundError`, or `UnavailableError` before the first plan."""
        known = self.plan.models if self.plan else ()
        models = known if name is None else (find_model(self._core.view, name),)
        return [ModelInfo(m.name, m.status, m.signature, self._core.view.obstacle(m)) for m in models]

    @property
    def plan(self) -> Plan | None:
        """The current plan."""
        return self._core.view.plan

    @property
    def epoch(self) -> Epoch:
        """The current plan's; (0, 0) before the first."""
        return self._core.view.epoch

    @property
    def oldest_in_flight(self) -> Epoch | None:
        """The oldest epoch that batches are in flight on."""
        return self._core.batches.oldest_epoch()

    def stage_times(self) -> tuple[StageTime, ...]:
        """What stages took since this was last asked."""
        return self._core.observed.take()

    def passage(self, now: float) -> Passage:
        """Which batches went to executors and came back; whoever asks has read what there was to read."""
        self._looks += 1
        return self._core.passing.report(self._core.identity.name, self._looks, now)

    @property
    def stats(self) -> Stats:
        """Counters since the start."""
        return self._core.stats

    @property
    def in_flight(self) -> dict[State, int]:
        """Unanswered requests by state; of one that was cut, every part. What waits for the first plan is queued."""
        table = self._core.table
        waiting = table.count(State.QUEUED)
        return {State.QUEUED: waiting + len(self._core.early), State.DISPATCHED: len(table) - waiting}

    @property
    def in_flight_by_node(self) -> dict[tuple[str, str], int]:
        """Dispatched, unanswered requests by model and node, counted at every node of their path."""
        counts: dict[tuple[str, str], int] = {}
        for batch in self._core.batches.live():
            for node in {replica.node for replica in batch.path}:
                key = (batch.model.name, node)
                counts[key] = counts.get(key, 0) + len(batch.pending)
        return counts

    @property
    def in_flight_bytes(self) -> int:
        """Input bytes of the unanswered requests."""
        return self._core.table.nbytes + self._core.early.nbytes

    @property
    def credits_held(self) -> tuple[int, int]:
        """Batches and bytes that paths are charged with."""
        return self._core.router.held

    def addresses(self) -> set[str]:
        """All executors of the plan, whose connections tell who lives."""
        return set(addresses(self.plan, self._core.identity.reply.host)) if self.plan else set()

    def entrances(self) -> set[str]:
        """The executors that a path may begin at, and where batches in flight were sent."""
        host = self._core.identity.reply.host
        used = {batch.path[0].endpoint.address_from(host) for batch in self._core.batches.live()}
        return used | (entrances(self.plan, host) if self.plan else set())

    @property
    def batches_kept(self) -> int:
        """Batches that are remembered: in flight, or given up but perhaps still to answer."""
        return len(self._core.batches)

    @property
    def draining(self) -> bool:
        """Whether nothing new is begun."""
        return self._arrivals.draining

    @property
    def answers_kept(self) -> tuple[int, int]:
        """Outcomes kept for those who ask again with their key, and the bytes they are charged."""
        return (self._core.keys.kept, self._core.keys.kept_bytes)

    @property
    def idle(self) -> bool:
        """Whether every request is answered."""
        return not len(self._core.table) and not len(self._core.early)

    @property
    def queue_depths(self) -> dict[str, int]:
        """Requests that wait, by model; before the first plan none is known."""
        return {name: len(queue) for name, queue in self._core.queues.items()}

    # --- plan and time --------------------------------------------------------------------------------------

    def _plan(self, event: ev.PlanApplied, now: float) -> None:
        if self._core.view.apply_plan(event.plan) is Applied.STALE:
            return
        for name in self._core.capacities.keys() - set(self._core.view.names()):
            del self._core.capacities[name]
        self._suspects.look(now)
        self._outcomes.hasten_old(now)
        self._reach.look(now)
        self._dispatcher.readmit(now)
        if not self.draining:
            self._journaling.resume(now)
        self._arrivals.begin_held(now)

    def _digest(self, event: ev.DigestApplied, now: float) -> None:
        applied = self._core.view.apply_digest(event.digest)
        if applied is Applied.BEHIND:
            self._core.emit(ev.FetchPlan())
        if applied is not Applied.STALE:
            self._suspects.look(now)
            self._outcomes.check_paths(now)
            self._outcomes.check_links(now)

    def _free(self) -> None:
        freed = self._core.keys.take_freed()
        if self._core.settings.journal:
            for number in freed:
                self._core.emit(ev.Forget(number))

    def _tick(self, event: ev.Tick, now: float) -> None:
        self._asked = None  # a tick that comes early must ask again

    def _ask_to_wake(self) -> None:
        wanted = self._core.timers.next()
        if wanted is not None and wanted != self._asked:
            self._asked = wanted
            self._core.emit(ev.WakeAt(wanted))
