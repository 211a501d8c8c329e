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

from states import clone, fingerprint, mark
from world import BACK, EVICTED, LOST, Parcel, ViolationError, World

from stageline.messages import Leaving, Prepare, Retire
from stageline.plan import Digest, Plan, StageKey
from stageline.wire import Message
from stageline_gateway import events as ev

MAX_WAITS = 14
Action = tuple[str, Callable[[World], None]]
Step = tuple[str, Callable[[World], None], int, bool]


@dataclass(frozen=True)
class Scenario:
    """`faults`: which kinds, of which `budget` may happen in all. `leave`: worker a is told to stop, once, any time.

    `standbys`: how many deaths at once each stage is to have standbys for.
    """

    requests: int
    faults: frozenset[str] = frozenset()
    budget: int = 0
    leave: bool = True
    standbys: int = 0


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
    stack: list[tuple[World, int, bool, tuple[object, ...]]] = [
        (prepared(scenario), scenario.budget, scenario.leave, ())
    ]
    while stack:
        world, budget, leave, trail = stack.pop()
        states += 1
        early = max(early, world.unloaded_early)
        if world.waits > MAX_WAITS:
            raise ViolationError(f"it does not settle\n{told(trail)}")
        following = list(_steps(world, scenario, budget, leave))
        if not following:
            ends += 1
            _settled(world, trail)
        if not budget:
            following = _alone(world, leave, following) or following
        for name, act, cost, leaves in following:
            after = _copy(world, act)
            try:
                act(after)
            except ViolationError as violation:
                raise ViolationError(f"{violation}\n{told((trail, name))}") from violation
            found = _mark(after, budget - cost, leave and not leaves)
            if found not in seen:
                seen.add(found)
                stack.append((after, budget - cost, leave and not leaves, (trail, name)))
    return Found(states, ends, early)


def _alone(world: World, leave: bool, following: list[Step]) -> list[Step]:
    """A step that may be taken first, whatever else is possible now or later, if there is one.

    That is what the coordinator told an agent, as long as nothing else can reach the agent, break its connection or
    have it say hello before: all other steps commute with it, and no promise depends on whether it was taken. Only
    without faults to come. Each takes a message from a queue and adds none to it, so nothing is put off for ever.
    """
    if type(world) is not World:
        return []
    for step in following:
        act = step[1]
        if isinstance(act, partial) and act.func is World.deliver:
            source, target = act.keywords["ends"]
            told = source == "c" and target in world.workers and not (leave and target == "a")
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


def _mark(world: World, budget: int, leave: bool) -> int:
    """Equal for states that behave alike."""
    shared, parts = world.shared(), _parts(world).values()
    marks = tuple([mark(part, shared) for part in parts])
    return hash((fingerprint(world, set(map(id, (*shared, *parts)))), marks, budget, leave))


def _arrive(world: World, parcel: Parcel) -> None:
    world.parcels.remove(parcel)
    world.compute(parcel)


def _steps(world: World, scenario: Scenario, budget: int, leave: bool) -> Iterator[Step]:
    """What can happen next: (name, what it does, what it costs of the budget, whether worker a begins to leave)."""
    regular = list(_regular(world))
    yield from ((name, act, 0, False) for name, act in regular)
    if leave and world.workers["a"].up:
        yield ("a leaves", _leave, 0, True)
    if budget:
        yield from ((name, act, 1, False) for name, act in _faults(world, scenario.faults))
    if not regular and not leave and not _quiet(world):
        yield ("time passes", World.wait, 0, False)


def _regular(world: World) -> Iterator[Action]:
    for ends in world.queues:
        yield (f"{ends[0]} to {ends[1]}: {_brief(world.queues[ends][0])}", partial(World.deliver, ends=ends))
    for parcel in dict.fromkeys(world.parcels):
        yield (f"{type(parcel.header).__name__} to {parcel.to}", partial(_arrive, parcel=parcel))
    if world.unasked and world.engine.plan is not None:
        yield (f"request {world.unasked[0]}", partial(World.ask, number=world.unasked[0]))
    members = world.cluster.members
    for worker in world.workers.values():
        silent = (worker.name, "c") not in world.queues
        if silent and worker.up and members.find(f"agent:{worker.name}") is None:
            yield (f"{worker.name} says hello", lambda w, name=worker.name: w.say(name, w.workers[name].hello()))
        elif silent and not worker.up and not worker.leaving and worker.starts < 2:
            yield (f"{worker.name} starts again", lambda w, name=worker.name: w.restart(w.workers[name]))
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


def _faults(world: World, kinds: frozenset[str]) -> Iterator[Action]:
    for ends, queue in world.queues.items():
        if "duplicate" in kinds and isinstance(queue[0], Message) and "c" in ends:
            yield (f"{_brief(queue[0])} comes twice", partial(World.deliver, ends=ends, keep=True))
        if "lose" in kinds and isinstance(queue[0], (Plan, Digest)):
            yield (f"{_brief(queue[0])} is lost", lambda w, ends=ends: _pop(w, ends))
    for parcel in dict.fromkeys(world.parcels):
        if "lose" in kinds:
            yield (f"a batch to {parcel.to} is lost", lambda w, parcel=parcel: w.parcels.remove(parcel))
        if "duplicate" in kinds:
            yield (f"a batch to {parcel.to} comes twice", partial(World.compute, parcel=parcel))
    for name, worker in world.workers.items():
        if "crash" in kinds and worker.up:
            yield (f"{name} dies", lambda w, name=name: _crash(w, name))
        if "break" in kinds and worker.up:
            yield (f"the connection of {name} breaks", lambda w, name=name: _break(w, name))
    if "coordinator" in kinds:
        yield ("c restarts", _restart_coordinator)
    if "gateway" in kinds:
        yield ("g restarts", _restart_gateway)
    if "late" in kinds:
        yield ("time passes early", _late)


def _leave(world: World) -> None:
    world.workers["a"].leaving = True
    world.say("a", Leaving("a"))


# --- what faults do -----------------------------------------------------------------------------------------


def _pop(world: World, ends: tuple[str, str]) -> None:
    world.queues[ends].popleft()
    if not world.queues[ends]:
        del world.queues[ends]


def _crash(world: World, name: str) -> None:
    world.stop(world.workers[name])
    world.workers[name].leaving = False


def _break(world: World, name: str) -> None:
    """What was on the way is lost; the coordinator hears of it, then from the worker again."""
    for ends in ((name, "c"), ("c", name)):
        world.queues.pop(ends, None)
    world.say(name, LOST)
    world.say(name, BACK)


def _restart_coordinator(world: World) -> None:
    world.calm = False
    world.start_coordinator()


def _restart_gateway(world: World) -> None:
    """Its clients ask again what was not answered."""
    world.calm = False
    for ends in (("g", "c"), ("c", "g")):
        world.queues.pop(ends, None)
    world.say("g", LOST)
    world.start_gateway()
    waiting = [number for number in world.asked if number not in world.outcomes]
    world.unasked, world.asked = waiting + world.unasked, [n for n in world.asked if n not in waiting]


def _late(world: World) -> None:
    world.calm = False
    world.wait()


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


def _brief(message: object) -> str:
    version = getattr(message, "version", "")
    return f"{type(message).__name__ if not isinstance(message, str) else message} {version}".strip()


def told(trail: tuple[object, ...]) -> str:
    steps: list[str] = []
    while trail:
        trail, step = trail  # type: ignore[assignment]
        steps.append(str(step))
    return "after: " + "; ".join(reversed(steps))
