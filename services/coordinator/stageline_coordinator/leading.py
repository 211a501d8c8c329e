"""What a coordinator does while it leads: the cluster's state machine with its heartbeats, planner and broadcasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from stageline import logs
from stageline.coordinators import number_of
from stageline.errors import ClusterError, ForbiddenError, StagelineError
from stageline.messages import (
    ROTATES,
    TOPIC_DIGEST,
    TOPIC_PLAN,
    Admitted,
    ErrorReply,
    Hello,
    KeyMade,
    MakeToken,
    NextKey,
    NextKeyIs,
    Pong,
    Refused,
    RevokeKey,
    RotateCoordinator,
    RotateKey,
    StandbyRow,
    StoreRow,
)
from stageline.nodewishes import OPEN
from stageline.plan import Digest, Plan
from stageline.sockets import Socket, Sockets
from stageline.wire import Message, encode
from stageline.wishes import NONE

from . import events
from .admin_requests import REQUESTS, AdminRequests
from .cluster import Cluster, Settings
from .control import ControlSocket
from .detector import DetectorConfig, PeerState
from .door import KeyRequests, check_overlap
from .figures import FigureKey
from .heartbeats import Heartbeats
from .introductions import Introductions, Step, Tell
from .journal import manifest_of
from .metrics import Metrics
from .planner_process import PlannerProcess
from .reaching import Reaching
from .recall import recall
from .registry import load_manifest
from .rotations import Rotations
from .store import Store
from .succession import Succession

PLAN_EVERY_S = 1.0
REVOKED = Refused(code=ForbiddenError.code, message="the key of this worker or gateway was revoked")
DIGEST_EVERY_S = 0.2


@dataclass(frozen=True)
class Tools:
    """What belongs to the process, whoever leads. `safely` answers a change once the standby has it, too."""

    store: Store
    control: ControlSocket
    publisher: Socket
    metrics: Metrics
    detector: DetectorConfig
    safely: Callable[[str, Message, float], None]
    standby: Callable[[], StandbyRow | None]
    keys: KeyRequests
    sockets: Sockets
    succession: Succession
    planner: PlannerProcess

    @property
    def data_key(self) -> bytes:
        """What we show to workers and gateways; empty without keys."""
        return self.sockets.keyring.data.public if self.sockets.keyring is not None else b""


class Leader:
    """From the taking of a term to `close`."""

    def __init__(self, settings: Settings, tools: Tools, now: float) -> None:
        self._tools, self._store, self._control = tools, tools.store, tools.control
        self._log = logs.get(service="coordinator").bind(term=number_of(settings.term), cluster=settings.cluster)
        self._heartbeats = Heartbeats(tools.detector)
        self._planner = tools.planner
        self._cluster = Cluster(settings, recall(tools.store), now)
        self._introductions = Introductions(tools.data_key)
        self._reaching = Reaching(tools.sockets)
        self._rotations = Rotations(tools.keys, tools.control.send, tools.safely)
        self._admin = AdminRequests(self._cluster, tools.store, tools.standby)
        self.metrics = tools.metrics
        self._next_plan = self._next_digest = now

    def close(self) -> None:
        """End what is being solved and tried."""
        self._planner.forget()
        self._reaching.close()

    @property
    def peers(self) -> list[str]:
        """The identities of everybody who is here."""
        return [peer.address for peer in self._cluster.members.everybody if peer.liveness != "gone"]

    def message(self, peer: str, message: Message, now: float) -> None:
        """Somebody says something."""
        if self._cluster.members.vouches(peer, message):
            sent_s = message.sent_s if isinstance(message, Pong) else None
            self._handle_all(self._heartbeats.heard(peer, now, sent_s), now)
        if isinstance(message, Hello):
            beside = self._cluster.resuming
            self._introduce(self._introductions.hello(peer, message, self.peers, now, beside=beside), now)
            return
        if isinstance(message, Admitted):
            self._introduce(self._introductions.admitted(peer, message.version), now)
            return
        if isinstance(message, MakeToken | RevokeKey):
            self._tools.safely(peer, self._tools.keys.answer(message), now)
            return
        if isinstance(message, RotateKey):
            self._rotations.ask(peer, message, self._cluster.members, now)
            return
        if isinstance(message, RotateCoordinator):
            self._succeed(peer, message)
            return
        if isinstance(message, KeyMade):
            self._rotations.made(peer, message, now)
            return
        if not isinstance(message, REQUESTS):
            self._handle(events.Heard(peer, message), now)
            return
        reply, event = self._admin.answer(message, now)
        if event is None:
            self._control.send(peer, reply)
        else:
            self._handle(event, now)
            self._tools.safely(peer, reply, now)

    def revoke(self, known: Callable[[str], bool], now: float) -> None:
        """Drop everybody whose name is not `known` any more."""
        for one in self._cluster.members.everybody:
            if not known(one.name) and one.liveness != "gone":
                self._log.warning("dropped: its key was revoked", peer=one.identity)
                self._control.send(one.address, REVOKED)
                gone = events.PeerChanged(one.address, PeerState.EVICTED, disconnected=True)
                self._handle(gone, now)
                self._introduce(self._introductions.revoke(one.address, self.peers, beside=self._cluster.resuming), now)

    def _succeed(self, admin: str, request: RotateCoordinator) -> None:
        try:
            check_overlap(request.overlap_s)
            if self._tools.standby() is not None:
                raise ClusterError("two coordinators share a key: stop the one that stands by, and copy the key to it")
            public = self._tools.succession.begin(request.overlap_s)
        except StagelineError as error:
            self._control.send(admin, ErrorReply(id=request.id, code=error.code, message=error.message))
            return
        for peer in self._cluster.members.everybody:
            self._announce(peer.address, peer.hello)
        self._control.send(admin, NextKeyIs(id=request.id, public=public))

    def _announce(self, peer: str, hello: Hello) -> None:
        """Say which key we will have."""
        public = self._tools.succession.public
        if public and ROTATES in hello.features:
            self._control.send(peer, NextKey(public=public))

    def _introduce(self, steps: Iterable[Step], now: float) -> None:
        for step in steps:
            if isinstance(step, Tell):
                self._control.send(step.peer, step.message)
                continue
            if step.silent:
                self._log.warning("admitted before all have its key", peer=step.peer, silent=step.silent)
            self._handle(events.Heard(step.peer, step.hello), now)
            self._announce(step.peer, step.hello)

    def lost(self, peer: str, now: float) -> None:
        """A connection broke."""
        self._handle_all(self._heartbeats.disconnected(peer, now), now)

    def tick(self, now: float) -> None:
        """At least every half interval between heartbeats."""
        self._handle_all(self._heartbeats.tick(now), now)
        for peer, ping in self._heartbeats.pings(now):
            self._control.send(peer, ping)
        self.answers(self._planner.expire(now))
        recorded = [one.address for one in self._cluster.members.everybody]
        beside = self._cluster.resuming
        self._introduce(self._introductions.tick(recorded, self.peers, now, beside=beside), now)
        self._reach(now)
        self._rotations.tick(now)
        self._handle(events.Tick(), now)
        if now >= self._next_plan:
            self._next_plan = now + PLAN_EVERY_S
            self._publish(self._cluster.plan)
            self.metrics.refresh(self._cluster, now)
        if now >= self._next_digest and not self._cluster.resuming:
            self._next_digest = now + DIGEST_EVERY_S
            self._publish(self._cluster.digest())

    def _reach(self, now: float) -> None:
        here = [one for one in self._cluster.members.everybody if one.liveness == "alive"]
        for found in self._reaching.tick({one.address: one.offers() for one in here}, now):
            self._handle(replace(found, came_from=self._control.origin(found.peer)), now)

    def answers(self, found: Iterable[events.Solved | events.SolveFailed]) -> None:
        """The planner's."""
        for answer in found:
            if isinstance(answer, events.Solved):
                self.metrics.solve_seconds.observe(float(answer.solution.get("solve_s") or 0.0))
            else:
                self.metrics.failed_solves.inc()
            self._handle(answer, time.monotonic())

    def merged(self, rows: Sequence[StoreRow], now: float) -> None:
        """The other coordinator led alone for a while: take in its models, and what is wanted of plans."""
        for row in rows:
            if row.kind == "model" and row.gone and row.key in self._cluster.models:
                self._handle(events.ModelRemoved(row.key), now)
            elif row.kind == "model" and not row.gone:
                self._take_model(manifest_of(row), now)
        if any(row.kind == "wish" for row in rows):
            self._take_wishes(now)

    def _take_wishes(self, now: float) -> None:
        wanted, wishes, objective = self._cluster.wanted, self._store.wishes(), self._store.objective()
        if objective != wanted.objective:
            self._handle(events.ObjectiveSet(objective), now)
        for name in self._cluster.models:
            if wishes.get(name, NONE) != wanted.of(name):
                self._handle(events.WishesSet(name, wishes.get(name, NONE)), now)
        nodes = self._store.node_wishes()
        for name in sorted({*nodes, *wanted.nodes}):
            if nodes.get(name, OPEN) != wanted.node(name):
                self._handle(events.NodeSet(name, nodes.get(name, OPEN)), now)

    def _take_model(self, sha: str, now: float) -> None:
        try:
            manifest = load_manifest(self._store.blobs, sha)
        except StagelineError as error:
            self._log.error("model left out", model=sha[:12], reason=error.message)
            return
        self._handle(events.ModelAdded(sha, manifest), now)

    def _handle_all(self, found: Iterable[events.PeerChanged], now: float) -> None:
        for event in found:
            if event.state is PeerState.EVICTED:
                self.metrics.evictions.inc()
            self._handle(event, now)

    def _handle(self, event: events.Event, now: float) -> None:
        for instruction in self._cluster.handle(event, now):
            self._do(instruction, now)

    def _do(self, instruction: events.Instruction, now: float) -> None:
        if isinstance(instruction, events.Send):
            self._control.send(instruction.peer, instruction.message)
        elif isinstance(instruction, events.PublishPlan):
            self._publish(instruction.plan)
        elif isinstance(instruction, events.PublishDigest):
            self._publish(instruction.digest)
        elif isinstance(instruction, events.Watch):
            self._heartbeats.watch(instruction.peer, now)
        elif isinstance(instruction, events.Unwatch):
            self._heartbeats.unwatch(instruction.peer)
        elif isinstance(instruction, events.Solve):
            failed = self._planner.solve(instruction.problem, instruction.document, now)
            self.answers([failed] if failed else [])
        elif isinstance(instruction, events.Note):
            self._note(instruction)
        else:
            persist(self._store, instruction)

    def _note(self, note: events.Note) -> None:
        log = self._log.warning if note.event == "addresses not reached" else self._log.info
        log(note.event, **note.fields)
        if note.event == "committed":
            self.metrics.replans.inc()
        elif note.event in ("node drifted", "link drifted", "link broken", "link stalled", "link doubted"):
            self.metrics.drifts.labels(note.event).inc()

    def _publish(self, message: Plan | Digest) -> None:
        topic = TOPIC_PLAN if isinstance(message, Plan) else TOPIC_DIGEST
        self._tools.publisher.send_multipart([topic, encode(message)])


def persist(store: Store, instruction: events.Instruction) -> None:
    """Write down what an instruction says to remember."""
    if isinstance(instruction, events.PersistPlan):
        store.put_plan(instruction.plan)
    elif isinstance(instruction, events.PersistNode):
        store.put_node(instruction.hello)
    elif isinstance(instruction, events.ForgetNode):
        store.forget_node(instruction.name)
    elif isinstance(instruction, events.PersistFigure):
        row = instruction
        store.put_profile(FigureKey(row.graph, row.fingerprint, row.batch), row.figure)
    elif isinstance(instruction, events.PersistLinks):
        store.put_links(instruction.links)
