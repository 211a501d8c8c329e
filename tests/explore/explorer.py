"""Every order in which things can happen in a `World`, with a bounded number of faults. Depth first; states that were
seen before are not gone on from (Holzmann's stateful search). Of orders that make no difference one is looked at: see
`_alone` (partial-order reduction by persistent sets, Godefroid 1996).

A step changes one process at most, unless it is a fault: the others are shared by a state and its successors, together
with their fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from happenings import EVENTS, Action, brief, faults, possible
from states import clone, fingerprint, mark
from world import BACK, EVICTED, LOST, Parcel, ViolationError, World

from stageline.messages import Prepare, Retire
from stageline.plan import StageKey
from stageline_gateway import events as ev

MAX_WAITS = 14
INDEPENDENT = frozenset({"lose", "gateway", "late"})
"""Faults that change nothing of an agent, nor of what the coordinator told it."""

Step = tuple[str, Callable[[World], None], "Left"]
"""Its name, what it does, and what may still happen afterwards."""


@dataclass(frozen=True)
class Scenario:
    """`faults`: which kinds, of which `budget` may happen in all. `events`: what happens once each, in order, any time.

    `standbys`: how many deaths at once each stage is to have standbys for. `overtaking`: how often in all another
    message of the control plane arrives than the first by the names of its ends, or somebody speaks up while one is
    under way; None for any number of times. Requests, batches, events and faults come in every order all the same.
    """

    requests: int
    faults: frozenset[str] = frozenset()
    budget: int = 0
    events: tuple[str, ...] = ("a leaves",)
    standbys: int = 0
    overtaking: int | None = None


class Left(NamedTuple):
    """What may still happen: faults, events, overtaking."""

    faults: int
    events: tuple[str, ...]
    overtaking: int | None


@dataclass(frozen=True)
class Found:
    """How much was explored; how often a stage was unloaded that a gateway, unknown or given up on, still used."""

    states: int
    ends: int
    unloaded_early: int


def prepared(scenario: Scenario) -> World:
    """A cluster that serves: the first plan is committed and known to everybody."""
    world = World(scenario.requests, scenario.standbys)
    while world.queues:
        world.deliver(next(iter(world.queues)))
    world.beat()
    world.deliver(("g", "c"))
    while world.queues:
        world.deliver(next(iter(world.queues)))
    assert world.engine.plan is not None
    assert [len(model.stages) for model in world.engine.plan.models] == [2], "the first plan uses both workers"
    return world


def explore(scenario: Scenario) -> Found:
    """Raises `ViolationError` with what led to it."""
    seen: set[int] = set()
    states = ends = early = 0
    first = Left(scenario.budget, scenario.events, scenario.overtaking)
    stack: list[tuple[World, Left, tuple[object, ...]]] = [(prepared(scenario), first, ())]
    while stack:
        world, left, trail = stack.pop()
        states += 1
        early = max(early, world.unloaded_early)
        if world.waits > MAX_WAITS:
            raise ViolationError(f"it does not settle\n{told(trail)}")
        following = list(_steps(world, scenario, left))
        if not following:
            ends += 1
            _settled(world, trail)
        if left.overtaking is None and (not left.faults or scenario.faults <= INDEPENDENT):
            following = _alone(world, left, following) or following
        for name, act, still in following:
            after = _copy(world, act)
            try:
                act(after)
            except ViolationError as violation:
                raise ViolationError(f"{violation}\n{told((trail, name))}") from violation
            found = _mark(after, still)
            if found not in seen:
                seen.add(found)
                stack.append((after, still, (trail, name)))
    return Found(states, ends, early)


def _alone(world: World, left: Left, following: list[Step]) -> list[Step]:
    """A step that may be taken first, whatever else is possible now or later, if there is one.

    That is what the coordinator told an agent, as long as nothing else can reach the agent, break its connection or
    have it say hello before: all other steps commute with it, and no promise depends on whether it was taken. Only
    without faults to come that touch it. Each takes a message from a queue and adds none to it, so nothing is put off
    for ever.
    """
    if type(world) is not World:
        return []
    for step in following:
        act = step[1]
        if isinstance(act, partial) and act.func is World.deliver:
            source, target = act.keywords["ends"]
            told = source == "c" and target in world.workers and not (left.events and target == "a")
            if told and _undisturbed(world, target):
                return [step]
    return []


def _undisturbed(world: World, name: str) -> bool:
    """Whether only the coordinator's queue leads to the agent, and its record there cannot go away."""
    worker, told = world.workers[name], world.queues[("c", name)][0]
    member = world.cluster.members.find(f"agent:{name}")
    known = member is not None and member.hello.incarnation == f"i{worker.starts}"
    lost = any(message in (LOST, EVICTED, BACK) for message in world.queues.get((name, "c"), ()))
    idle = (name, f"x{name}") not in world.queues
    return worker.up and not worker.leaving and known and not lost and idle and isinstance(told, (Prepare, Retire))


def _parts(world: World) -> dict[str, object]:
    """The processes, by the names that connections give them."""
    return {"c": world.cluster, "g": world.engine, **world.workers} if type(world) is World else {}


def _changed(act: Callable[[World], None], names: Iterable[str]) -> set[str]:
    """The processes that an action may change: whoever gets something."""
    if isinstance(act, partial) and act.func is World.deliver:
        return {act.keywords["ends"][1].removeprefix("x")}
    if isinstance(act, partial) and act.func is _arrive:
        return {"g"} if act.keywords["parcel"].to.startswith("g") else set()
    if isinstance(act, partial) and act.func is World.ask:
        return {"g"}
    return set() if act is World.beat else set(names)


def _copy(world: World, act: Callable[[World], None]) -> World:
    """For the action to change."""
    parts = _parts(world)
    changed = _changed(act, parts)
    kept = [*world.shared(), *(part for name, part in parts.items() if name not in changed)]
    copy: World = clone(world, {id(one): one for one in kept})
    return copy


def _mark(world: World, left: Left) -> int:
    """Equal for states that behave alike."""
    shared, parts = world.shared(), _parts(world).values()
    marks = tuple([mark(part, shared) for part in parts])
    return hash((fingerprint(world, set(map(id, (*shared, *parts)))), marks, left))


def _arrive(world: World, parcel: Parcel) -> None:
    world.parcels.remove(parcel)
    world.compute(parcel)


def _steps(world: World, scenario: Scenario, left: Left) -> Iterator[Step]:
    """What can happen next."""
    requests, control = list(_requests(world)), list(_control(world))
    yield from ((name, act, left) for name, act in requests)
    for i, (name, act) in enumerate(control):
        if not i or left.overtaking is None:
            yield (name, act, left)
        elif left.overtaking:
            yield (name, act, left._replace(overtaking=left.overtaking - 1))
    event = left.events[0] if left.events and possible(world, left.events[0]) else ""
    if event:
        yield (event, EVENTS[event], left._replace(events=left.events[1:]))
    for name, act in faults(world, scenario.faults) if left.faults else ():
        yield (name, act, left._replace(faults=left.faults - 1))
    if not (requests or control or event or _quiet(world)):
        yield ("time passes", World.wait, left)


def _requests(world: World) -> Iterator[Action]:
    for parcel in dict.fromkeys(world.parcels):
        yield (f"{type(parcel.header).__name__} to {parcel.to}", partial(_arrive, parcel=parcel))
    if world.unasked and world.engine.plan is not None:
        yield (f"request {world.unasked[0]}", partial(World.ask, number=world.unasked[0]))


def _control(world: World) -> Iterator[Action]:
    for ends in sorted(world.queues):
        yield (f"{ends[0]} to {ends[1]}: {brief(world.queues[ends][0])}", partial(World.deliver, ends=ends))
    members = world.cluster.members
    for worker in world.workers.values():
        silent = (worker.name, "c") not in world.queues
        if silent and worker.up and members.find(f"agent:{worker.name}") is None:
            yield (f"{worker.name} says hello", lambda w, name=worker.name: w.say(name, w.workers[name].hello()))
        elif silent and not worker.up and not worker.leaving and worker.starts < 2:
            yield (f"{worker.name} starts again", lambda w, name=worker.name: w.restart(w.workers[name]))
        if worker.up and not worker.running:
            yield (f"{worker.name} starts an executor", lambda w, name=worker.name: w.executor_starts(w.workers[name]))
    yield from _gateway_steps(world)


def _gateway_steps(world: World) -> Iterator[Action]:
    gateway = world.cluster.members.gateways.get("g")
    if ("g", "c") not in world.queues:
        if gateway is None or gateway.hello.incarnation != f"i{world.gateways}":
            yield ("g says hello", lambda w: w.say("g", w.gateway_hello()))
        elif (gateway.epoch, gateway.oldest) != (world.engine.epoch, world.engine.oldest_in_flight):
            yield ("g beats", World.beat)
    if ("c", "g") not in world.queues and gateway is not None and not world.cluster.resuming:
        if world.engine.epoch != world.cluster.plan.epoch:
            yield ("c repeats its plan", lambda w: w.push("c", "g", w.cluster.plan))
        elif world.seen != world.cluster.members.views():
            yield ("c repeats its digest", lambda w: w.push("c", "g", w.cluster.digest()))


# --- what must be true when nothing more happens --------------------------------------------------------------


def _needed(world: World, name: str) -> set[StageKey]:
    models = world.cluster.plan.models
    stages = [(m.key(s), (*s.replicas, *s.standbys)) for m in models for s in m.stages]
    return {key for key, replicas in stages if name in {replica.node for replica in replicas}}


def _quiet(world: World) -> bool:
    """Whether everybody has what they want."""
    course = world.cluster._course
    changing = world.cluster.resuming or course._preparation is not None or course._published._drain.pending
    loaded = all(w.stages == _needed(world, w.name) for w in world.workers.values() if w.up)
    gone = all(not (worker.up and worker.leaving) for worker in world.workers.values())
    return not changing and loaded and gone and world.engine.idle and world.engine.epoch == world.cluster.plan.epoch


def _settled(world: World, trail: tuple[object, ...]) -> None:
    answered = [number for number in world.asked if isinstance(world.outcomes.get(number, [None])[0], ev.Answer)]
    engine, serving = world.engine, all(model.status == "serving" for model in world.cluster.plan.models)
    left = (*engine.credits_held, engine.in_flight_bytes, engine.batches_kept)
    if answered != world.asked or left != (0, 0, 0, 0) or not serving:
        wrong = f"answered: {answered} of {world.asked}; credits, bytes and batches left: {left}; serving: {serving}"
        raise ViolationError(f"{wrong}\n{told(trail)}")


def told(trail: tuple[object, ...]) -> str:
    steps: list[str] = []
    while trail:
        trail, step = trail  # type: ignore[assignment]
        steps.append(str(step))
    return "after: " + "; ".join(reversed(steps))
