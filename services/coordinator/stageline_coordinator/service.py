"""The coordinator's process: sockets, timers and the store around the pure cluster state machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack, closing

import zmq

from stageline import logs
from stageline.config import CoordinatorConfig
from stageline.errors import ConfigError
from stageline.http import StatusServer
from stageline.lifecycle import StopSignals
from stageline.messages import BLOBS, CONTROL, PLAN, TOPIC_DIGEST, TOPIC_PLAN, Channel, Pong
from stageline.plan import Digest, Plan
from stageline.service_main import announce
from stageline.sockets import Socket, Sockets
from stageline.wire import Message, encode

from . import events
from .admin_requests import REQUESTS, AdminRequests
from .blob_server import BlobThread
from .cluster import Cluster, Settings
from .control import ControlSocket, Lost
from .detector import DetectorConfig, PeerState
from .figures import FigureKey
from .heartbeats import Heartbeats
from .metrics import Metrics
from .planner_process import PlannerProcess
from .recall import recall
from .store import Store

PLAN_EVERY_S = 1.0
DIGEST_EVERY_S = 0.2


class Coordinator:
    """Built with everything bound; `run` serves until a signal."""

    def __init__(self, config: CoordinatorConfig, store: Store, sockets: Sockets, stack: ExitStack) -> None:
        self._log = logs.get(service="coordinator")
        self._store = store
        ping_s = config.ping_ms / 1000
        detector = DetectorConfig(
            ping_s=ping_s, tick_s=ping_s, suspect_s=config.suspect_ms / 1000, evict_s=config.evict_ms / 1000
        )
        self._tick_s = ping_s / 2
        self._heartbeats = Heartbeats(detector)
        ports = store.ports()
        control, self.control_address = _bind(sockets, CONTROL, config.host, config.port, ports)
        self._publisher, self.plan_address = _bind(sockets, PLAN, config.host, config.plan_port, ports)
        blobs, self.blobs_address = _bind(sockets, BLOBS, config.host, config.blob_port, ports)
        found = {"control": self.control_address, "plan": self.plan_address, "blobs": self.blobs_address}
        store.save_ports({name: int(address.rsplit(":", 1)[1]) for name, address in found.items()})
        self._control = ControlSocket(control)
        thread = BlobThread(blobs, store.blobs)
        stack.callback(thread.stop)
        self._planner = PlannerProcess()
        stack.callback(self._planner.close)
        settings = Settings(
            term=store.begin_term(),
            cluster=store.cluster,
            plan_address=self.plan_address,
            blobs_address=self.blobs_address,
            ping_s=ping_s,
            rejoin_s=config.rejoin_ms / 1000,
            drain_s=config.drain_s,
            max_replicas=config.max_replicas,
            standbys=config.standbys,
        )
        self._cluster = Cluster(settings, recall(store), time.monotonic())
        self._admin = AdminRequests(self._cluster, store)
        self.metrics = Metrics()
        self._log = self._log.bind(term=settings.term, cluster=settings.cluster)

    @property
    def term(self) -> int:
        """The number of this start."""
        return self._cluster.settings.term

    def run(self, stop: StopSignals) -> None:
        """Serve until `stop.requested`."""
        self._log.info("coordinator up", control=self.control_address)
        next_tick = next_plan = next_digest = time.monotonic()
        while not stop.requested:
            self._wait(stop, max(0.0, next_tick - time.monotonic()))
            now = time.monotonic()
            if now < next_tick:
                continue
            next_tick = now + self._tick_s
            self._tick(now)
            if now >= next_plan:
                next_plan = now + PLAN_EVERY_S
                self._publish(self._cluster.plan)
                self.metrics.refresh(self._cluster)
            if now >= next_digest and not self._cluster.resuming:
                next_digest = now + DIGEST_EVERY_S
                self._publish(self._cluster.digest())
        self._log.info("coordinator stops")

    def _wait(self, stop: StopSignals, timeout_s: float) -> None:
        """Handle what arrives, or return after `timeout_s`."""
        poller = zmq.Poller()
        poller.register(stop.fileno(), zmq.POLLIN)
        poller.register(self._control.socket, zmq.POLLIN)
        poller.register(self._control.monitor, zmq.POLLIN)
        readable, writable = self._planner.readable, self._planner.writable
        if readable is not None:
            poller.register(readable, zmq.POLLIN)
        if writable is not None:
            poller.register(writable, zmq.POLLOUT)
        ready = dict(poller.poll(int(timeout_s * 1000) + 1))
        if stop.fileno() in ready:
            stop.drain()
        if self._control.socket in ready or self._control.monitor in ready:
            self._receive()
        if writable in ready:
            self._planner.write()
        if readable in ready:
            self._answers(self._planner.read())

    def _receive(self) -> None:
        for item in self._control.receive():
            now = time.monotonic()
            if isinstance(item, Lost):
                self._handle_all(self._heartbeats.disconnected(item.peer, now), now)
                continue
            peer, message = item
            if self._cluster.members.vouches(peer, message):
                sent_s = message.sent_s if isinstance(message, Pong) else None
                self._handle_all(self._heartbeats.heard(peer, now, sent_s), now)
            self._message(peer, message, now)

    def _message(self, peer: str, message: Message, now: float) -> None:
        if isinstance(message, REQUESTS):
            reply, event = self._admin.answer(message, now)
            if event is not None:
                self._handle(event, now)
            self._control.send(peer, reply)
        else:
            self._handle(events.Heard(peer, message), now)

    def _tick(self, now: float) -> None:
        self._handle_all(self._heartbeats.tick(now), now)
        for peer, ping in self._heartbeats.pings(now):
            self._control.send(peer, ping)
        self._answers(self._planner.expire(now))
        self._handle(events.Tick(), now)

    def _answers(self, found: Iterable[events.Solved | events.SolveFailed]) -> None:
        for answer in found:
            if isinstance(answer, events.Solved):
                self.metrics.solve_seconds.observe(float(answer.solution.get("solve_s") or 0.0))
            else:
                self.metrics.failed_solves.inc()
            self._handle(answer, time.monotonic())

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
            self._answers([failed] if failed else [])
        elif isinstance(instruction, events.Note):
            self._note(instruction)
        else:
            _persist(self._store, instruction)

    def _note(self, note: events.Note) -> None:
        self._log.info(note.event, **note.fields)
        if note.event == "committed":
            self.metrics.replans.inc()
        elif note.event in ("node drifted", "link drifted", "link broken", "link stalled"):
            self.metrics.drifts.labels(note.event).inc()

    def _publish(self, message: Plan | Digest) -> None:
        topic = TOPIC_PLAN if isinstance(message, Plan) else TOPIC_DIGEST
        self._publisher.send_multipart([topic, encode(message)])


def _persist(store: Store, instruction: events.Instruction) -> None:
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


def _bind(sockets: Sockets, channel: Channel, host: str, port: int, last: dict[str, int]) -> tuple[Socket, str]:
    """Port 0: the one of the last run if it is free, else any."""
    if port == 0 and last.get(channel.name):
        try:
            return sockets.bind(channel, f"tcp://{host}:{last[channel.name]}")
        except ConfigError:
            logs.get(service="coordinator").warning("port of the last run is taken", channel=channel.name)
    return sockets.bind(channel, f"tcp://{host}:{port}")


def run(config: CoordinatorConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    logs.configure(service="coordinator", level=config.log_level, style=config.log_format)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        store = stack.enter_context(Store(config.data_dir))
        sockets = stack.enter_context(closing(Sockets()))
        coordinator = Coordinator(config, store, sockets, stack)
        ready = {"control": coordinator.control_address, "term": coordinator.term}
        registry = coordinator.metrics.registry
        http = StatusServer(config.host, config.http_port, lambda: (True, ready), registry)
        stack.callback(http.close)
        addresses = {"plan": coordinator.plan_address, "blobs": coordinator.blobs_address, "http": http.address}
        announce(config.ready_file, {"control": coordinator.control_address, **addresses})
        coordinator.run(stop)
