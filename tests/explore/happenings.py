"""What happens to a `World` from outside: what users and administrators do, and faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from world import BACK, LOST, SECOND, Worker, World

from stageline.data import Activation
from stageline.messages import Leaving
from stageline.nodewishes import OPEN, NodeWishes
from stageline.plan import Digest, Plan
from stageline.wire import Message

Action = tuple[str, Callable[[World], None]]


def _leave(world: World) -> None:
    world.workers["a"].leaving = True
    world.say("a", Leaving("a"))


EVENTS: dict[str, Callable[[World], None]] = {
    "a leaves": _leave,
    "a is to be drained": partial(World.want, wishes=NodeWishes(duty="drained")),
    "a is cordoned": partial(World.want, wishes=NodeWishes(duty="cordoned")),
    "a is opened": partial(World.want, wishes=OPEN),
    "a second model is added": partial(World.add, model=SECOND),
}
"""Each changes the plan, or may."""


def possible(world: World, event: str) -> bool:
    """Whether it can happen now: a worker that is down is not told to stop."""
    return event != "a leaves" or world.workers["a"].up


def faults(world: World, kinds: frozenset[str]) -> Iterator[Action]:
    """Those of the kinds that can happen now."""
    yield from _of_messages(world, kinds)
    for name, worker in world.workers.items():
        if "crash" in kinds and worker.up:
            yield (f"{name} dies", partial(_crash, name=name))
        if "break" in kinds and worker.up:
            yield (f"the connection of {name} breaks", partial(_break, name=name))
        if "executor" in kinds and worker.up and worker.running:
            yield from _executor_dies(world, worker)
    if "coordinator" in kinds:
        yield ("c restarts", _restart_coordinator)
    if "waits" in kinds:
        yield ("c restarts, what is on the way waits for it", partial(_restart_coordinator, waits=True))
    if "gateway" in kinds:
        yield ("g restarts", _restart_gateway)
    if "late" in kinds:
        yield ("time passes early", _late)


def _of_messages(world: World, kinds: frozenset[str]) -> Iterator[Action]:
    for ends, queue in world.queues.items():
        if "duplicate" in kinds and isinstance(queue[0], Message) and "c" in ends:
            yield (f"{brief(queue[0])} comes twice", partial(World.deliver, ends=ends, keep=True))
        if "lose" in kinds and isinstance(queue[0], (Plan, Digest)):
            yield (f"{brief(queue[0])} is lost", partial(_pop, ends=ends))
    for parcel in dict.fromkeys(world.parcels):
        if "lose" in kinds:
            yield (f"a batch to {parcel.to} is lost", lambda w, parcel=parcel: w.parcels.remove(parcel))
        if "duplicate" in kinds:
            yield (f"a batch to {parcel.to} comes twice", partial(World.compute, parcel=parcel))


def _executor_dies(world: World, worker: Worker) -> Iterator[Action]:
    """Idle, or while it computes what came to it."""
    name = worker.name
    yield (f"the executor of {name} dies", lambda w: w.executor_dies(w.workers[name], ()))
    for parcel in dict.fromkeys(world.parcels):
        if parcel.to == worker.executor and isinstance(parcel.header, Activation):
            ids = parcel.header.ids
            yield (f"the executor of {name} dies of {ids}", lambda w, ids=ids: w.executor_dies(w.workers[name], ids))


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


def _restart_coordinator(world: World, *, waits: bool = False) -> None:
    world.calm = False
    world.start_coordinator(waits=waits)


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


def brief(message: object) -> str:
    """For trails."""
    version = getattr(message, "version", "")
    return f"{type(message).__name__ if not isinstance(message, str) else message} {version}".strip()
