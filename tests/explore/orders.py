"""Every order in which things can happen to two coordinators and who listens to them (`terms`), with few faults.

What happens by itself: a message arrives, in the order of its connection; the two tell each other what is news; one
finds the other silent, and a service gives its coordinator up, when that is dead or out of reach; a leader goes on with
its plan under its term, once somebody came; a dead one starts again. A fault is one of these without cause, or what
`Scenario` names. One that is frozen wakes up. States seen before are not gone on from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from explorer import Action, told
from states import clone, fingerprint
from terms import LOST, OTHER, Service, Side, Terms
from world import ViolationError

STARTS, WAKES = "starts again", "wakes up"
MOST_WAITING = 2
Trail = tuple[object, ...]


@dataclass(frozen=True)
class Scenario:
    """`faults`: so many, of these `kinds`. `plans`: how often the leader makes one. `services`: g(ateway), a (worker).

    Kinds: `kill`, a coordinator dies; `waits`, that too, and what is under way to it or from it arrives nevertheless,
    as does what its partner says meanwhile; `freeze`, one is frozen; `cut`, the two do not hear each other; `deaf`, one
    finds the other silent that is not, or a service gives its coordinator up that is well; `still`, the leader finds
    that it stood still; `lose`, a broadcast is lost; `duplicate`, a message comes twice; `late`, what a leader said
    last comes again.
    """

    kinds: frozenset[str]
    faults: int
    plans: int
    services: str


def prepared(services: str) -> Terms:
    """c leads, d stands by, and everybody knows the first plan."""
    world = Terms(0, services)
    world.silent("c")
    while steps := list(_regular(world)):
        steps[0][1](world)
    return world


def explore(scenario: Scenario) -> int:
    """How many states there are; raises `ViolationError` with what led to it."""
    first = prepared(scenario.services)
    first.plans, first.waits = scenario.plans, "waits" in scenario.kinds
    first.said = first.said if "late" in scenario.kinds else None
    trails: dict[int, Trail] = {}
    calm: set[int] = set()
    before: dict[int, list[int]] = {}
    stack: list[tuple[Terms, int, Trail, int]] = [(first, scenario.faults, (), 0)]
    while stack:
        world, left, trail, origin = stack.pop()
        mark = hash((fingerprint(world, set()), left))
        before.setdefault(mark, []).append(origin)
        if mark in trails:
            continue
        trails[mark] = trail
        regular = list(_regular(world))
        if all(name.endswith((STARTS, WAKES)) for name, _ in regular):
            _settled(world, trail)
            calm.add(mark)
        none_up = not any(side.awake for side in world.sides.values())
        costly = [(name, act, 1) for name, act in _faults(world, scenario.kinds)] if left else []
        for name, act, cost in [*((name, act, 0) for name, act in regular), *costly]:
            after = clone(world, {})
            try:
                act(after)
            except ViolationError as violation:
                raise ViolationError(f"{violation}\n{told((trail, name))}") from violation
            by_itself = not cost and (none_up or not name.endswith((STARTS, WAKES)))
            stack.append((after, left - cost, (trail, name), mark if by_itself else 0))
    _come_to_rest(trails, calm, before)
    return len(trails)


def _come_to_rest(trails: dict[int, Trail], calm: set[int], before: dict[int, list[int]]) -> None:
    """From every state one where all is well can be reached without a fault, or a dead one back if one lives."""
    reach, ahead = set(calm), list(calm)
    while ahead:
        for mark in before[ahead.pop()]:
            if mark and mark not in reach:
                reach.add(mark)
                ahead.append(mark)
    for mark, trail in trails.items():
        if mark not in reach:
            raise ViolationError(f"it does not come to rest\n{told(trail)}")


def _regular(world: Terms) -> Iterator[Action]:
    for ends in world.queues:
        if ends[1] not in world.sides or world.sides[ends[1]].awake:
            yield (f"{ends[0]} to {ends[1]}: {world.queues[ends][0]}", partial(Terms.deliver, ends=ends))
    for side in world.sides.values():
        other = world.sides[OTHER[side.name]]
        if not side.up:
            yield (f"{side.name} {STARTS}", lambda w, name=side.name: w.start(w.sides[name]))
            continue
        if side.asleep:
            yield (f"{side.name} {WAKES}", partial(Terms.still, name=side.name))
            continue
        apart, led = world.cut or not other.awake, side.leadership
        if _has_news(world, side, other):
            yield (f"{side.name} tells {other.name}", partial(Terms.tell, name=side.name))
        if apart and not led._absent:
            yield (f"{side.name} finds {other.name} silent", partial(Terms.silent, name=side.name))
        if led.leading and side.members and side.plan.term != led.term:
            yield (f"{side.name} resumes", lambda w, name=side.name: w.commit(w.sides[name]))
        if led.leading and world.plans and side.plan.term == led.term:
            yield (f"{side.name} makes a plan", partial(_plan, name=side.name))
    if world.cut:
        yield ("c and d hear each other again", lambda w: setattr(w, "cut", False))
    for name, service in world.services.items():
        yield from _service(world, name, service)


def _has_news(world: Terms, side: Side, other: Side) -> bool:
    """Whether it tells the other how it stands: what was said before, and what is known to be so, makes no difference.

    What is told to one that does not read waits for it, the oldest first.
    """
    now, under_way = side.told(), world.queues.get((side.name, other.name), ())
    if world.cut or (under_way and other.awake):
        return False
    if other.awake:
        return other.heard != now or bool(other.leadership._absent) or bool(other.leadership.passed_over)
    waits = other.asleep or world.waits
    return waits and len(under_way) < MOST_WAITING and (not under_way or under_way[-1] != now)


def _plan(world: Terms, name: str) -> None:
    world.plans -= 1
    world.commit(world.sides[name])


def _service(world: Terms, name: str, service: Service) -> Iterator[Action]:
    side = world.sides[service.link.current]
    talking = (name, side.name) in world.queues or (side.name, name) in world.queues
    if not side.awake:
        yield (f"{name} gives {side.name} up", partial(Terms.go_on, name=name))
    elif not talking and (not service.joined or name not in side.members):
        yield (f"{name} says hello to {side.name}", partial(Terms.hello, name=name))
    elif not talking and name == "g" and _behind(world, service, side):
        yield (f"{side.name} repeats its plan", lambda w, s=side.name: w.broadcast(w.sides[s]))


def _behind(world: Terms, service: Service, side: Side) -> bool:
    on_the_way = (f"{side.name} to all", "g") in world.queues
    return not on_the_way and service.epoch < side.plan.epoch and side.plan.term == side.leadership.term


def _faults(world: Terms, kinds: frozenset[str]) -> Iterator[Action]:
    for side in world.sides.values():
        if kinds & {"kill", "waits"} and side.up:
            yield (f"{side.name} dies", partial(Terms.kill, name=side.name))
        if "freeze" in kinds and side.awake:
            yield (f"{side.name} is frozen", lambda w, name=side.name: setattr(w.sides[name], "asleep", True))
        if "deaf" in kinds and side.awake and not side.leadership._absent:
            yield (f"{side.name} wrongly finds its partner silent", partial(Terms.mistake, name=side.name))
        if "still" in kinds and side.awake and side.leadership.leading and not side.leadership._absent:
            yield (f"{side.name} stood still", partial(Terms.still, name=side.name))
    if "cut" in kinds and not world.cut:
        yield ("c and d do not hear each other", Terms.part)
    for name, service in world.services.items():
        if "deaf" in kinds and world.sides[service.link.current].awake:
            yield (f"{name} wrongly gives {service.link.current} up", partial(Terms.go_on, name=name))
    for ends, said in (world.said or {}).items():
        for kind, message in said.items():
            yield (f"{message} of {ends[0]} comes once more to {ends[1]}", partial(Terms.again, ends=ends, kind=kind))
    for ends, queue in world.queues.items():
        if "lose" in kinds and "to all" in ends[0]:
            yield (f"{queue[0]} is lost", partial(Terms.deliver, ends=ends, drop=True))
        if "duplicate" in kinds and queue[0] != LOST:
            yield (f"{queue[0]} comes twice", partial(Terms.deliver, ends=ends, keep=True))


def _settled(world: Terms, trail: tuple[object, ...]) -> None:
    """Nothing more happens until a dead one starts: one leads, everybody follows it, and all who live know its plan."""
    awake = [side for side in world.sides.values() if side.awake]
    leading = [side.name for side in awake if side.leads]
    following = {service.link.current for service in world.services.values()}
    plans = {side.plan.epoch for side in awake} | {one.epoch for one in world.services.values()}
    if following != set(leading) or len(plans) != 1:
        wrong = f"leading: {leading}, followed: {following}; plans: {sorted(plans)}"
        raise ViolationError(f"{wrong}\n{told(trail)}")
