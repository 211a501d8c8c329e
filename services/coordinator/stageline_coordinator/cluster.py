"""The cluster's state machine: events in, instructions out. Pure; times are seconds on one monotonic clock.

Level-triggered: an event only changes what is known, then `Course.reconcile` compares what is with what should be
and says what to do about it. So the order in which news arrives does not matter, and nothing depends on remembering
to react to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stageline.manifest import ModelManifest
from stageline.messages import (
    REACHED,
    ExecutorDown,
    ExecutorUp,
    Farewell,
    Hello,
    Leaving,
    Pong,
    Prepared,
    PrepareFailed,
    Probed,
    Profiled,
    Reached,
    Rejoin,
    Welcome,
)
from stageline.nodewishes import OPEN, NodeWishes
from stageline.plan import Digest, Plan
from stageline.wishes import Wishes

from . import loadfailures
from .course import Course
from .events import (
    AddressesTried,
    Event,
    ForgetNode,
    Heard,
    Instruction,
    ModelAdded,
    ModelRemoved,
    NodeRemoved,
    NodeSet,
    Note,
    ObjectiveSet,
    PeerChanged,
    PersistNode,
    Send,
    Solved,
    SolveFailed,
    Tick,
    Unwatch,
    Watch,
    WishesSet,
)
from .figures import Figures, Models
from .guarding import Guard
from .measuring import Measuring
from .members import Members
from .network import Ends, Link
from .peers import Node, Peer
from .planning import Planning
from .published import Published
from .rejoining import Rejoining
from .wanted import THROUGHPUT, Wanted, known


@dataclass(frozen=True)
class Settings:
    """What the cluster tells its peers, and its patience in seconds."""

    term: int
    cluster: str
    plan_address: str
    blobs_address: str
    ping_s: float = 0.1
    rejoin_s: float = 3.0
    drain_s: float = 10.0
    max_replicas: int = 1
    standbys: int = 0


@dataclass(frozen=True)
class Memory:
    """What an earlier run left on disk."""

    models: tuple[tuple[str, ModelManifest], ...] = ()
    figures: Figures = field(default_factory=dict)
    plan: Plan | None = None
    nodes: tuple[Hello, ...] = ()
    links: Mapping[Ends, Link] = field(default_factory=dict)
    objective: str = THROUGHPUT
    wishes: Mapping[str, Wishes] = field(default_factory=dict)
    node_wishes: Mapping[str, NodeWishes] = field(default_factory=dict)


class Cluster:
    """Feed it with `handle`, do what it says in order."""

    def __init__(self, settings: Settings, memory: Memory, now: float) -> None:
        self.settings = settings
        self.members = Members(memory.nodes, now)
        self.measuring = Measuring(memory.figures, memory.links)
        self._models: dict[str, tuple[str, ModelManifest]] = {m.name: (sha, m) for sha, m in memory.models}
        published = Published(settings.term, memory.plan, settings.drain_s)
        rejoining = Rejoining(memory.plan, settings.rejoin_s, now)
        self.wanted = Wanted(
            memory.objective, settings.max_replicas, known(self._models, memory.wishes), dict(memory.node_wishes)
        )
        self._sort_out()
        self.planning = Planning(self.measuring, self.members, self.wanted)
        guard = Guard(settings.term, settings.standbys, self.members, self.planning, self.measuring.book)
        self._course = Course(
            settings.term, self.members, self._models, self.measuring, self.planning, published, guard, rejoining
        )

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._course.plan

    def shown(self, now: float) -> Plan:
        """The same for people: one whose workers are waited for in vain serves nothing."""
        return self._course.shown(now)

    @property
    def models(self) -> Models:
        """The registered models."""
        return self._models

    @property
    def resuming(self) -> bool:
        """Whether a new leader still waits for the workers of the plan that it found."""
        return self._course.resuming

    def digest(self) -> Digest:
        """The next digest, for its regular repetition; not while `resuming`."""
        return self._course.digest()

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """What to do about `event`, in this order."""
        found = list(_HANDLERS[type(event)](self, event, now))
        quiet = isinstance(event, Heard) and isinstance(event.message, Pong) and not found
        return found + list(self._course.retire(now) if quiet else self._course.reconcile(now))

    # --- peers ----------------------------------------------------------------------------------------------

    def _heard(self, event: Heard, now: float) -> Iterator[Instruction]:
        message = event.message
        if isinstance(message, Hello):
            yield from self._hello(event.peer, message, now)
            return
        peer = self.members.find(event.peer)
        if peer is None or (isinstance(message, Pong) and message.incarnation != peer.hello.incarnation):
            yield Send(event.peer, Rejoin())
        elif isinstance(message, Pong):
            self.members.pong(peer, message, now)
            yield from self.measuring.observed(message, self.members, self._models, now)
            yield from self.measuring.passed(peer, message, self.members, now)
        elif isinstance(message, Leaving):
            yield from self._leaving(peer)
        elif isinstance(peer, Node):
            handler = _FROM_NODES.get(type(message))
            if handler:
                yield from handler(self, peer, message, now)

    def _hello(self, identity: str, hello: Hello, now: float) -> Iterator[Instruction]:
        before = self.members.namesake(hello)
        left = before.address if before is not None else identity
        refused = self.members.join(identity, hello, now)
        if refused:
            yield Note("refused", {"peer": identity, "reason": refused.message})
            yield Send(identity, refused)
            return
        if hello.role == "admin":
            yield Send(identity, self._welcome())
            return
        if left != identity:
            yield Unwatch(left)
        yield Watch(identity)
        yield Send(identity, self._welcome())
        again = before is not None and before.hello.incarnation == hello.incarnation
        if not again:
            self.measuring.book.lost(hello.name)
            self.measuring.links.lost(f"{hello.role}:{hello.name}")
            yield Note("joined", {"peer": f"{hello.role}:{hello.name}", "incarnation": hello.incarnation})
        if hello.role == "agent":
            yield PersistNode(hello)
            if again:
                yield from self._course.repeat(self.members.nodes[hello.name])

    def _welcome(self) -> Welcome:
        settings = self.settings
        return Welcome(
            term=settings.term,
            plan=settings.plan_address,
            blobs=settings.blobs_address,
            ping_interval_s=settings.ping_s,
            cluster=settings.cluster,
        )

    def _changed(self, event: PeerChanged, now: float) -> Iterator[Instruction]:
        peer = self.members.find(event.peer)
        if peer is None:
            return
        returned = event.returned or (peer.disconnected and not event.disconnected)
        self.members.changed(peer, event.state, event.disconnected, now)
        yield Note("peer changed", {"peer": peer.identity, "state": peer.state, "disconnected": peer.disconnected})
        if not peer.disconnected and returned:
            yield Send(event.peer, Rejoin())  # whatever was sent while the connection was down is lost
        if peer.liveness == "gone":
            yield Unwatch(event.peer)
        if peer.liveness == "gone" or peer.disconnected:
            self.measuring.lost(peer)

    def _tried(self, event: AddressesTried, now: float) -> Iterator[Instruction]:
        peer = self.members.find(event.peer)
        if peer is None:
            return
        before, peer.unreached = peer.unreached, tuple(f"{t.address}: {t.problem}" for t in event.tried if t.problem)
        if before == peer.unreached:
            return
        fields = {"peer": peer.identity, "came_from": event.came_from, "problems": list(peer.unreached)}
        yield Note("addresses not reached" if peer.unreached else "addresses reached", fields)
        if REACHED in peer.hello.features:
            yield Send(event.peer, Reached(tried=event.tried, came_from=event.came_from))

    def _leaving(self, peer: Peer) -> Iterator[Instruction]:
        peer.leaving = True
        yield Note("leaving", {"peer": peer.identity})
        if not isinstance(peer, Node):  # a gateway knows itself what it still has in flight
            peer.farewell = True
            yield Send(peer.address, Farewell())

    def _executor_up(self, node: Node, message: ExecutorUp, now: float) -> Iterator[Instruction]:
        self.members.executor_up(node, message.executor)
        yield Note("executor up", {"node": node.name, "executor": message.executor.executor})

    def _executor_down(self, node: Node, message: ExecutorDown, now: float) -> Iterator[Instruction]:
        self.members.executor_down(node, message.executor, message.computing)
        self.measuring.book.lost(node.name)
        fields = {"node": node.name, "executor": message.executor, "exit_code": message.exit_code}
        yield Note("executor down", {**fields, "reason": message.reason})

    def _profiled(self, node: Node, message: Profiled, now: float) -> Iterator[Instruction]:
        yield from self.measuring.profiled(node, message, self._models, now)

    def _probed(self, node: Node, message: Probed, now: float) -> Iterator[Instruction]:
        yield from self.measuring.probed(node, message, now)

    def _prepared(self, node: Node, message: Prepared, now: float) -> Iterator[Instruction]:
        node.loading = False
        yield from self._course.prepared(node, message)

    def _prepare_failed(self, node: Node, message: PrepareFailed, now: float) -> Iterator[Instruction]:
        node.loading = False
        yield from self._course.prepare_failed(node, message, now)

    # --- models and solutions -------------------------------------------------------------------------------

    def _added(self, event: ModelAdded, now: float) -> Iterator[Instruction]:
        self._forgive(event.manifest.name)
        self._models[event.manifest.name] = (event.sha, event.manifest)
        self._forgive(event.manifest.name)  # added again, which mends what was damaged
        yield Note("model added", {"model": event.manifest.name})

    def _removed(self, event: ModelRemoved, now: float) -> Iterator[Instruction]:
        self._forgive(event.name)
        self._models.pop(event.name, None)
        self.wanted.models.pop(event.name, None)
        yield Note("model removed", {"model": event.name})

    def _forgive(self, model: str) -> None:
        """Nobody's failures to load it count any more."""
        if model in self._models:
            loadfailures.forget(self.members.nodes, self._models[model][0])

    def _wishes_set(self, event: WishesSet, now: float) -> Iterator[Instruction]:
        self.wanted.models[event.model] = event.wishes
        yield Note("wishes set", {"model": event.model, **event.wishes.to_json()})

    def _objective_set(self, event: ObjectiveSet, now: float) -> Iterator[Instruction]:
        self.wanted.objective = event.objective
        yield Note("objective set", {"objective": event.objective})

    def _node_set(self, event: NodeSet, now: float) -> Iterator[Instruction]:
        self.wanted.nodes[event.name] = event.wishes
        if event.wishes == OPEN:
            del self.wanted.nodes[event.name]
        self._sort_out()
        yield Note("node set", {"node": event.name, "duty": event.wishes.duty, "labels": event.wishes.labels})

    def _sort_out(self) -> None:
        """Who is to be emptied."""
        self.members.drain([name for name, one in self.wanted.nodes.items() if one.duty == "drained"])

    def _node_removed(self, event: NodeRemoved, now: float) -> Iterator[Instruction]:
        self.members.nodes.pop(event.name, None)
        self.wanted.nodes.pop(event.name, None)
        self._sort_out()
        yield from self._forget(event.name)
        yield Note("node removed", {"node": event.name})

    def _solved(self, event: Solved, now: float) -> Iterator[Instruction]:
        yield from self._course.solved(event, now)

    def _solve_failed(self, event: SolveFailed, now: float) -> Iterator[Instruction]:
        yield from self._course.solve_failed(event, now)

    def _tick(self, event: Tick, now: float) -> Iterator[Instruction]:
        for name in self.members.forget(now):
            yield from self._forget(name)
        yield from self.measuring.forget(self.members, now)

    def _forget(self, name: str) -> Iterator[Instruction]:
        self.measuring.links.forget(f"agent:{name}")
        yield ForgetNode(name)


_HANDLERS: dict[type[Any], Callable[[Cluster, Any, float], Iterator[Instruction]]] = {
    Heard: Cluster._heard,
    PeerChanged: Cluster._changed,
    AddressesTried: Cluster._tried,
    ModelAdded: Cluster._added,
    ModelRemoved: Cluster._removed,
    NodeRemoved: Cluster._node_removed,
    NodeSet: Cluster._node_set,
    WishesSet: Cluster._wishes_set,
    ObjectiveSet: Cluster._objective_set,
    Solved: Cluster._solved,
    SolveFailed: Cluster._solve_failed,
    Tick: Cluster._tick,
}

_FROM_NODES: dict[type[Any], Callable[[Cluster, Node, Any, float], Iterator[Instruction]]] = {
    ExecutorUp: Cluster._executor_up,
    ExecutorDown: Cluster._executor_down,
    Profiled: Cluster._profiled,
    Probed: Cluster._probed,
    Prepared: Cluster._prepared,
    PrepareFailed: Cluster._prepare_failed,
}
