"""The cluster's state machine: events in, instructions out. Pure; times are seconds on one monotonic clock.

Level-triggered: an event only changes what is known, then `_reconcile` compares what is with what should be and
says what to do about it. So the order in which news arrives does not matter, and nothing depends on remembering
to react to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from stageline.manifest import ModelManifest
from stageline.messages import (
    ExecutorDown,
    ExecutorUp,
    Farewell,
    Hello,
    Leaving,
    Pong,
    Prepared,
    PrepareFailed,
    Profiled,
    Rejoin,
    Welcome,
)
from stageline.plan import Digest, ModelPlan, Plan

from . import assemble
from .events import (
    Event,
    ForgetNode,
    Heard,
    Instruction,
    ModelAdded,
    ModelRemoved,
    Note,
    PeerChanged,
    PersistNode,
    Send,
    Solved,
    SolveFailed,
    Tick,
    Unwatch,
    Watch,
)
from .members import Members
from .peers import Node, Peer
from .placement import Answer, Placement, can_plan
from .planning import Planning
from .preparing import ANSWER_S, Preparation
from .profiling import Figures, Models, ProfileBook
from .published import Published


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


@dataclass(frozen=True)
class Memory:
    """What an earlier run left on disk."""

    models: tuple[tuple[str, ModelManifest], ...] = ()
    figures: Figures | None = None
    plan: Plan | None = None
    nodes: tuple[Hello, ...] = ()


class Cluster:
    """Feed it with `handle`, do what it says in order."""

    def __init__(self, settings: Settings, memory: Memory, now: float) -> None:
        self.settings = settings
        self.members = Members(memory.nodes, now)
        self.book = ProfileBook(memory.figures or {})
        self._models: dict[str, tuple[str, ModelManifest]] = {m.name: (sha, m) for sha, m in memory.models}
        self._planning = Planning(self.book)
        self._published = Published(settings.term, memory.plan, settings.drain_s)
        self._preparation: Preparation | None = None
        self._resume_at: float | None = now + settings.rejoin_s if memory.plan else None

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._published.plan

    @property
    def models(self) -> Models:
        """The registered models."""
        return self._models

    @property
    def resuming(self) -> bool:
        """Whether a restarted coordinator still waits for the workers of the plan that it found."""
        return self._resume_at is not None

    def digest(self) -> Digest:
        """The next digest, for its regular repetition; not while `resuming`."""
        return self._published.digest(self.members)

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """What to do about `event`, in this order."""
        found = list(_HANDLERS[type(event)](self, event, now))
        quiet = isinstance(event, Heard) and isinstance(event.message, Pong) and not found
        return found + list(self._retire(now) if quiet else self._reconcile(now))

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
            self.members.pong(peer, message)
        elif isinstance(message, Leaving):
            yield from self._leaving(peer)
        elif isinstance(peer, Node):
            handler = _FROM_NODES.get(type(message))
            if handler:
                yield from handler(self, peer, message, now)

    def _hello(self, identity: str, hello: Hello, now: float) -> Iterator[Instruction]:
        before = self.members.find(identity)
        refused = self.members.join(identity, hello, now)
        if refused:
            yield Note("refused", {"peer": identity, "reason": refused.message})
            yield Send(identity, refused)
            return
        if hello.role == "admin":
            yield Send(identity, self._welcome())
            return
        yield Watch(identity)
        yield Send(identity, self._welcome())
        again = before is not None and before.hello.incarnation == hello.incarnation
        if not again:
            self.book.lost(hello.name)
            yield Note("joined", {"peer": identity, "incarnation": hello.incarnation})
        if hello.role == "agent":
            yield PersistNode(hello)
            preparation = self._preparation
            if preparation and again and hello.name in preparation.waiting:
                yield Send(identity, preparation.message(self.settings.term, hello.name))

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
        returned = peer.disconnected and not event.disconnected
        self.members.changed(peer, event.state, event.disconnected, now)
        yield Note("peer changed", {"peer": event.peer, "state": peer.state, "disconnected": peer.disconnected})
        if not peer.disconnected and returned:
            yield Send(event.peer, Rejoin())  # whatever was sent while the connection was down is lost
        if peer.liveness == "gone":
            yield Unwatch(event.peer)
        if peer.liveness == "gone" or peer.disconnected:
            self.book.lost(peer.name)

    def _leaving(self, peer: Peer) -> Iterator[Instruction]:
        peer.leaving = True
        yield Note("leaving", {"peer": peer.identity})
        if not isinstance(peer, Node):  # a gateway knows itself what it still has in flight
            peer.farewell = True
            yield Send(peer.identity, Farewell())

    def _executor_up(self, node: Node, message: ExecutorUp, now: float) -> Iterator[Instruction]:
        self.members.executor_up(node, message.executor)
        yield Note("executor up", {"node": node.name, "executor": message.executor.executor})

    def _executor_down(self, node: Node, message: ExecutorDown, now: float) -> Iterator[Instruction]:
        self.members.executor_down(node, message.executor)
        self.book.lost(node.name)
        fields = {"node": node.name, "executor": message.executor, "exit_code": message.exit_code}
        yield Note("executor down", {**fields, "reason": message.reason})

    def _profiled(self, node: Node, message: Profiled, now: float) -> Iterator[Instruction]:
        yield from self.book.profiled(node.name, message, self._models)
        if message.error:
            yield Note("profiling failed", {"node": node.name, "reason": message.error})

    def _prepared(self, node: Node, message: Prepared, now: float) -> Iterator[Instruction]:
        preparation = self._preparation
        if preparation and message.term == self.settings.term and preparation.answered(node, message):
            return
        # too late, but loaded it is: known, it will be retired again
        for stage, executor in zip(message.stages, message.executors):  # noqa: B905 - a peer's lists may differ
            if executor in node.executors:
                node.add_loaded(executor, (stage,))
        yield Note("late answer", {"node": node.name, "version": message.version})

    def _prepare_failed(self, node: Node, message: PrepareFailed, now: float) -> Iterator[Instruction]:
        preparation = self._preparation
        if preparation and (message.term, message.version) == (self.settings.term, preparation.version):
            node.exclude(now, f"{message.stage} failed to load: {message.message}")
            yield Note("prepare failed", {"node": node.name, "stage": str(message.stage), "reason": message.message})

    # --- models and solutions -------------------------------------------------------------------------------

    def _added(self, event: ModelAdded, now: float) -> Iterator[Instruction]:
        self._models[event.manifest.name] = (event.sha, event.manifest)
        yield Note("model added", {"model": event.manifest.name})

    def _removed(self, event: ModelRemoved, now: float) -> Iterator[Instruction]:
        self._models.pop(event.name, None)
        yield Note("model removed", {"model": event.name})

    def _solved(self, event: Solved, now: float) -> Iterator[Instruction]:
        yield from self._planning.solved(event.problem, event.solution, self.members.usable(now), self._models, now)

    def _solve_failed(self, event: SolveFailed, now: float) -> Iterator[Instruction]:
        yield from self._planning.failed(event.problem, event.reason, now)

    def _tick(self, event: Tick, now: float) -> Iterator[Instruction]:
        for name in self.members.forget(now):
            yield ForgetNode(name)

    # --- what is, and what should be ------------------------------------------------------------------------

    def _reconcile(self, now: float) -> Iterator[Instruction]:
        if self._resume_at is not None and not self._may_resume(now):
            return
        if self._resume_at is not None:
            self._resume_at = None
            models = tuple(model for model in self.plan.models if model.name in self._models)
            yield from self._published.commit(models, self.members, now)
        yield from self._published.announce(self.members)
        yield from self._check_preparation(now)
        nodes = self.members.usable(now)
        for node, request in self.book.requests(nodes, self._models, now):
            yield Send(node.identity, request)
        yield from self._plan(nodes, now)
        yield from self._retire(now)

    def _may_resume(self, now: float) -> bool:
        """Once all workers of the restored plan are back, or the time for that is over."""
        wanted = {r.node for model in self.plan.models for stage in model.stages for r in stage.replicas}
        nodes = (self.members.nodes.get(name) for name in wanted)
        return now >= (self._resume_at or 0.0) or all(node is not None and node.present for node in nodes)

    def _check_preparation(self, now: float) -> Iterator[Instruction]:
        preparation = self._preparation
        if preparation is None:
            return
        for name in preparation.waiting if now >= preparation.until else ():
            node = self.members.nodes.get(name)
            if node:
                node.exclude(now, f"it did not load its stages within {ANSWER_S:g} s")
        if not preparation.valid(self.members.nodes, self._models, now):
            yield Note("preparation dropped", {"version": preparation.version})
            self._preparation = None
        elif not preparation.waiting:
            self._preparation = None
            yield from self._commit(preparation, now)

    def _plan(self, nodes: list[Node], now: float) -> Iterator[Instruction]:
        if self._planning.current(nodes, self._models) is None:
            yield from self._planning.ask(nodes, self._models, now)
        decided = self._planning.current(nodes, self._models) is not None
        target = self._planning.target(self.plan, self._models, self.members.nodes) if decided else None
        answer = self._planning.current(nodes, self._models)
        models = tuple(self._entry(name, nodes, answer, now) for name in self._models)
        if models != self.plan.models:
            yield from self._published.commit(models, self.members, now)
        if answer is not None:
            yield from self._aim(target, answer, nodes, now)

    def _aim(self, target: Placement | None, answer: Answer, nodes: list[Node], now: float) -> Iterator[Instruction]:
        """Start, keep or abandon a preparation."""
        if target is None:
            self._preparation = None
            return
        if self._preparation is not None and self._preparation.target == target:
            return
        here = {node.name: node for node in nodes}
        begun = Preparation.begin(self._published.next_version(), target, answer, self._models, here, now)
        self._preparation = begun
        yield Note("preparing", {"version": begun.version, "nodes": sorted(begun.stages)})
        for name in begun.stages:
            yield Send(here[name].identity, begun.message(self.settings.term, name))

    def _commit(self, done: Preparation, now: float) -> Iterator[Instruction]:
        for name in done.stages:
            self.members.nodes[name].failures = 0
        usable, here = self.members.usable(now), self.members.nodes
        answer = self._planning.current(usable, self._models)
        ready = {name: assemble.serving(name, done, self._models, here, self.book) for name in done.target}
        models = tuple(ready.get(name) or self._entry(name, usable, answer, now) for name in self._models)
        yield Note("committed", {"models": sorted(ready), "version": done.version})
        yield from self._published.commit(models, self.members, now, done.version)

    def _entry(self, name: str, nodes: list[Node], answer: Answer | None, now: float) -> ModelPlan:
        """The plan's entry for a model that is not just being committed."""
        old = self.plan.model(name)
        if old is not None and old.stages and not self._condemned(old, nodes, answer):
            return old
        undecided = answer is None and old is not None and old.status == "unavailable"
        if old is not None and undecided and old.manifest == self._models[name][0]:
            return old
        left_out = self.members.left_out(now)
        status, reason = assemble.why_not(name, self._models, nodes, left_out, self.book, answer)
        return assemble.idle(name, self._models, status, reason)

    def _condemned(self, old: ModelPlan, nodes: list[Node], answer: Answer | None) -> bool:
        """Whether a model that was served is so no longer, and will not be soon."""
        sha, manifest = self._models[old.name]
        runs = assemble.intact(old, self.members.nodes)
        if (runs and old.manifest == sha) or answer is None or old.name in answer.placement:
            return False
        return not runs or can_plan(manifest, nodes, self.book)

    def _retire(self, now: float) -> Iterable[Instruction]:
        return () if self.resuming else self._published.retire(self.members, self._preparation, now)


_HANDLERS: dict[type[Any], Callable[[Cluster, Any, float], Iterator[Instruction]]] = {
    Heard: Cluster._heard,
    PeerChanged: Cluster._changed,
    ModelAdded: Cluster._added,
    ModelRemoved: Cluster._removed,
    Solved: Cluster._solved,
    SolveFailed: Cluster._solve_failed,
    Tick: Cluster._tick,
}

_FROM_NODES: dict[type[Any], Callable[[Cluster, Node, Any, float], Iterator[Instruction]]] = {
    ExecutorUp: Cluster._executor_up,
    ExecutorDown: Cluster._executor_down,
    Profiled: Cluster._profiled,
    Prepared: Cluster._prepared,
    PrepareFailed: Cluster._prepare_failed,
}
