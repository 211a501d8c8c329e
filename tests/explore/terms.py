"""Who leads and who is listened to, in every order: two coordinators, a gateway, a worker, and what is said of terms.

The real `Leadership`, `Coordinators` (which fences leaders of the past off), `PlanView` of a gateway and `Loading` of a
worker. Plans are here only their numbers and who made them. What happens in which order is in `orders`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from world import ViolationError

from stageline.coordinators import Coordinators
from stageline.messages import Prepare
from stageline.plan import Plan
from stageline_coordinator.leadership import Lead, Leadership, Promise, Remembered
from stageline_gateway.routing import PlanView
from stageline_stage.loading import Loading

OTHER = {"c": "d", "d": "c"}
LOST = "lost"


@dataclass(frozen=True)
class Hello:
    term: int


@dataclass(frozen=True)
class Welcome:
    term: int


@dataclass(frozen=True)
class Refused:
    leader: str


@dataclass(frozen=True)
class Told:
    """A heartbeat of one coordinator to the other: how it stands, and the plan that it has on disk."""

    coordinator: int
    term: int
    taken: int
    leads: bool
    plan: Plan
    stamp: int
    echo: int


@dataclass
class Side:
    """A coordinator; `plan` and `standing` are on disk. Asleep: its process is frozen, reads and says nothing."""

    name: str
    standing: Remembered
    plan: Plan = Plan(term=0, version=0)
    up: bool = True
    asleep: bool = False
    drawn: int = 0
    leadership: Any = None
    members: set[str] = field(default_factory=set)
    heard: Told | None = None

    @property
    def leads(self) -> bool:
        return self.up and bool(self.leadership.leading)

    def told(self) -> Told:
        """What it tells the other now."""
        led = self.leadership
        return Told(led.coordinator, led.term, led.taken, led.leading, self.plan, led.stamp, led.echo)

    @property
    def awake(self) -> bool:
        return self.up and not self.asleep

    def draw(self) -> int:
        self.drawn += 1
        return self.drawn


@dataclass
class Service:
    """A gateway (`view`) or a worker (`loading`)."""

    link: Coordinators = field(default_factory=lambda: Coordinators(("c", "d")))
    joined: bool = False
    subscribed: str = ""
    view: PlanView = field(default_factory=PlanView)
    loading: Loading = field(default_factory=Loading)

    @property
    def epoch(self) -> tuple[int, int]:
        return max(self.view.epoch, self.loading.epoch)


class Terms:
    """`plans` is how many more times something happens for which the leader makes a new plan; services by name.

    `waits`: what is under way to or from a coordinator that dies arrives nevertheless, to it when it starts again.
    `mistaken`: somebody was found silent that was not.
    """

    def __init__(self, plans: int, services: str) -> None:
        self.queues: dict[tuple[str, str], deque[Any]] = {}
        self.cut = self.waits = self.mistaken = False
        self.plans = plans
        self.leaders: dict[int, str] = {}
        self.said: dict[tuple[str, str], dict[type, Any]] | None = {}  # None where no old message comes again
        self.made: dict[tuple[int, int], str] = {}
        self.sides = {"c": Side("c", Remembered(1, True, True)), "d": Side("d", Remembered(2, False, True))}
        self.services = {name: Service() for name in services}
        for side in self.sides.values():
            self.start(side)

    # --- coordinators ---------------------------------------------------------------------------------------

    def start(self, side: Side) -> None:
        side.up, side.asleep, side.heard = True, False, None
        side.leadership = Leadership(side.standing, partner=True, draw=side.draw)
        self.steps(side, side.leadership.start())

    def kill(self, name: str) -> None:
        side = self.sides[name]
        side.up = False
        side.members.clear()
        for ends in [ends for ends in self.queues if name in ends and not self.waits]:
            del self.queues[ends]
        for service in self.services.values():
            service.joined = service.joined and service.link.current != name

    def steps(self, side: Side, steps: Any) -> None:
        for step in steps:
            if isinstance(step, Promise):
                side.standing = replace(side.standing, promised=step.term)
            elif isinstance(step, Lead):
                side.standing = replace(side.standing, taken=step.term, promised=step.term)
                if step.term in self.leaders:
                    raise ViolationError(f"term {step.term} was taken twice, the last time by {side.name}")
                self.leaders[step.term] = side.name
                if self.sides[OTHER[side.name]].leads and not (side.leadership._absent or self.mistaken):
                    raise ViolationError(f"{side.name} takes the lead from {OTHER[side.name]}, which it hears")
                side.members.clear()
            else:
                members, side.members = side.members, set()
                for name in sorted(members):
                    self.push(side.name, name, self.refusal(side))

    def refusal(self, side: Side) -> Refused:
        leads = side.leadership.passed_over or (side.heard is not None and side.heard.leads)
        return Refused(OTHER[side.name] if leads else "")

    def commit(self, side: Side) -> None:
        """A new plan: on disk, then to everybody."""
        term = side.leadership.term
        version = side.plan.version + 1 if side.plan.term == term else 1
        side.plan = Plan(term=term, version=version)
        if self.made.setdefault(side.plan.epoch, side.name) != side.name:
            raise ViolationError(f"both made a plan {side.plan.epoch}")
        self.broadcast(side)
        if "a" in side.members:
            self.push(side.name, "a", Prepare(term=term, version=version, stages=()))

    def broadcast(self, side: Side) -> None:
        if "g" in self.services and self.services["g"].subscribed == side.name:
            self.queues.setdefault((f"{side.name} to all", "g"), deque()).append(side.plan)

    def tell(self, name: str) -> None:
        self.push(name, OTHER[name], self.sides[name].told())

    def still(self, name: str) -> None:
        """It finds that it stood still for long."""
        self.sides[name].asleep = False
        self.steps(self.sides[name], self.sides[name].leadership.stood_still())

    def silent(self, name: str) -> None:
        self.steps(self.sides[name], self.sides[name].leadership.silent())

    def mistake(self, name: str) -> None:
        """It finds the other silent, which is not."""
        self.mistaken = True
        self.silent(name)

    def _to_side(self, side: Side, source: str, message: Any) -> None:
        if isinstance(message, Told):
            side.heard = message
            led, stamps = side.leadership, {"stamp": message.stamp, "echo": message.echo}
            self.steps(side, led.heard(message.coordinator, message.term, message.taken, leads=message.leads, **stamps))
            side.plan = max(side.plan, message.plan, key=lambda plan: plan.epoch)
        elif message == LOST:
            side.members.discard(source)
        elif isinstance(message, Hello):
            self.steps(side, side.leadership.called(message.term))
            if not side.leadership.leading:
                self.push(side.name, source, self.refusal(side))
                return
            side.members.add(source)
            self.push(side.name, source, Welcome(side.leadership.term))
            if source == "a" and side.plan.term == side.leadership.term:
                self.push(side.name, "a", Prepare(term=side.plan.term, version=side.plan.version, stages=()))

    # --- services -------------------------------------------------------------------------------------------

    def hello(self, name: str) -> None:
        service = self.services[name]
        self.push(name, service.link.current, Hello(service.link.term))

    def go_on(self, name: str) -> None:
        """It gives its coordinator up."""
        self._leave(name, self.services[name].link.go_on)

    def _leave(self, name: str, move: Callable[[], object]) -> None:
        service = self.services[name]
        before, service.joined = service.link.current, False
        move()
        for ends in ((name, before), (before, name)):
            waits = ends[1] == before and self.sides[before].asleep and LOST not in self.queues.get(ends, ())
            if not waits:  # in the socket of one that is frozen
                self.queues.pop(ends, None)
        self.push(name, before, LOST)
        self.hello(name)

    def again(self, ends: tuple[str, str], kind: type) -> None:
        """What a coordinator last said of that kind, perhaps as a leader of the past, comes once more."""
        source, name = ends
        message, service = (self.said or {})[ends][kind], self.services[name]
        if isinstance(message, Prepare):
            before = service.epoch
            service.loading.prepare(message)
            self._never_back(name, before)
        elif message.term < service.link.term:
            self._to_service(name, source, message)

    def _never_back(self, name: str, before: tuple[int, int]) -> None:
        if self.services[name].epoch < before:
            raise ViolationError(f"{name} went from plan {before} back to {self.services[name].epoch}")

    def _to_service(self, name: str, source: str, message: Any) -> None:
        service, before, term = self.services[name], self.services[name].epoch, self.services[name].link.term
        if isinstance(message, Welcome):
            service.joined = service.link.welcomed("cluster", message.term)
            if service.joined and name == "g" and service.subscribed != source:
                self.queues.pop((f"{service.subscribed} to all", "g"), None)
                service.subscribed = source
                self.queues.setdefault((f"{source} to all", "g"), deque()).append(self.sides[source].plan)
        elif isinstance(message, Refused):
            service.joined = False
            if message.leader and message.leader != service.link.current:
                self._leave(name, partial(service.link.redirected, message.leader))
        elif isinstance(message, Plan):
            service.view.apply_plan(message)
        elif isinstance(message, Prepare):
            if message.term < service.link.term:
                raise ViolationError(f"{name} listens to term {message.term}, welcomed under {service.link.term}")
            service.loading.prepare(message)
        if service.link.term < term:
            raise ViolationError(f"{name} listens to term {service.link.term}, welcomed under {term} before")
        self._never_back(name, before)

    # --- the network ----------------------------------------------------------------------------------------

    def push(self, source: str, target: str, message: Any) -> None:
        if self.said is not None and isinstance(message, (Welcome, Prepare)):
            self.said.setdefault((source, target), {})[type(message)] = message
        closed = target in self.services and self.services[target].link.current != source
        waits = self.waits and source in self.sides
        if not closed and (target not in self.sides or self.sides[target].up or waits):
            self.queues.setdefault((source, target), deque()).append(message)

    def deliver(self, ends: tuple[str, str], *, keep: bool = False, drop: bool = False) -> None:
        """The next message of a connection arrives; with `keep` it will once more, with `drop` it does not."""
        queue = self.queues[ends]
        message = queue[0] if keep else queue.popleft()
        if not queue:
            del self.queues[ends]
        if drop:
            return
        if ends[1] in self.sides:
            self._to_side(self.sides[ends[1]], ends[0], message)
        else:
            self._to_service(ends[1], ends[0], message)

    def part(self) -> None:
        """The two do not hear each other."""
        self.cut = True
        for ends in (("c", "d"), ("d", "c")):
            self.queues.pop(ends, None)
