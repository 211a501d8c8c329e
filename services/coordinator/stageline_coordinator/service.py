"""The coordinator's process: sockets and timers around who leads, what a leader does, and the other coordinator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import zmq

from stageline import logs
from stageline.addresses import port_of
from stageline.config import CoordinatorConfig
from stageline.coordinators import NOT_LEADING, number_of
from stageline.errors import ConfigError
from stageline.http import Guard, StatusServer
from stageline.keyfiles import read_keyring
from stageline.lifecycle import StopSignals
from stageline.messages import BLOBS, CONTROL, JOIN, PLAN, Channel, Follow, Hello, Refused, StandbyRow, Standing
from stageline.service_main import announce
from stageline.sockets import Socket, Sockets
from stageline.wire import Message

from . import leadership as lead
from . import partner as other
from .authority import Authority
from .blob_server import BlobThread
from .cluster import Settings
from .collector import Collector
from .control import ControlSocket, Lost
from .copier import Copier
from .database import SCHEMA_VERSION
from .detector import DetectorConfig
from .door import Door, KeyRequests
from .leadership import Leadership
from .leading import Leader, Tools
from .metrics import Metrics
from .partner import Partner
from .planner_process import PlannerProcess
from .store import Store
from .succession import Succession, take_next

STOOD_STILL_S = 0.8
"""After so long without a look at the sockets others may have gone to the partner: they do so after a second."""

START_PATIENCE_S = 1.5
"""How much later than usual a partner counts as silent that has not been heard since our start: it may lead."""


class Coordinator:
    """Built with everything bound; `run` serves until a signal."""

    def __init__(self, config: CoordinatorConfig, store: Store, sockets: Sockets, stack: ExitStack) -> None:
        self._log = logs.get(service="coordinator")
        self._config, self._store = config, store
        self._planner = PlannerProcess()
        stack.callback(self._planner.close)
        self._planner.warm(time.monotonic())  # who takes over, or comes back, may have to plan around a death at once
        ping_s = config.ping_ms / 1000
        self._tick_s = ping_s / 2
        detector = DetectorConfig(
            ping_s=ping_s, tick_s=ping_s, suspect_s=config.suspect_ms / 1000, evict_s=config.evict_ms / 1000
        )
        bound = _bind_all(config, sockets, store)
        self.control_address, self.plan_address, self.blobs_address = (bound[c.name][1] for c in (CONTROL, PLAN, BLOBS))
        publisher, door = bound[PLAN.name][0], bound.get(JOIN.name)
        self._authority = Authority(config.keys_dir, sockets.keyring, store.keys, store.old_keys)
        self._door = (
            Door(door[0], store, sockets.keyring, self._authority.owners, self._elsewhere, self._authority.read)
            if door and sockets.keyring
            else None
        )
        port = port_of(door[1]) if door else 0
        requests = KeyRequests(store, sockets.keyring, self._authority, port)
        keyed = sockets.keyring is not None
        self._control = ControlSocket(bound[CONTROL.name][0], self._authority.refusal if keyed else None)
        self._blobs = BlobThread(bound[BLOBS.name][0], store.blobs, self._authority.blobs if keyed else None)
        stack.callback(self._blobs.stop)
        self._copier = Copier(sockets, store.blobs)
        stack.callback(self._copier.close)
        self._collector = Collector(store, config.blob_keep_s, time.monotonic())
        stack.callback(self._collector.close)
        self.metrics = Metrics()
        self._partner = Partner(store, sockets, self._control, self._copier, detector, self._standing)
        address = config.standby_of or store.partner()
        if address:
            self._partner.connect(address, time.monotonic(), START_PATIENCE_S)
        self._leadership = Leadership(store.remembered(), partner=bool(address))
        self._succession = Succession(config.keys_dir, store)
        self._tools = Tools(
            store,
            self._control,
            publisher,
            self.metrics,
            detector,
            self._partner.when_safe,
            self._partner.row,
            requests,
            sockets,
            self._succession,
            self._planner,
        )
        self._leader: Leader | None = None
        self._awake = time.monotonic()
        stack.callback(self._close)
        self._steps(self._leadership.start(), time.monotonic())
        self.ready = self._readiness(self._partner.row())
        """For other threads."""

    @property
    def term(self) -> int:
        """The number of the term that it leads under, or knows."""
        return number_of(self._leadership.term)

    def _readiness(self, row: StandbyRow | None) -> tuple[bool, dict[str, Any]]:
        """Ready is who leads, and who could at once; `row` is about the other coordinator."""
        leads = self._leadership.leading
        told = {"control": self.control_address, "term": self.term, "role": "leader" if leads else "standby"}
        if row is not None:
            told |= {"partner": row.address, "partner_state": row.state}
        if leads or (self._leadership.able and row is not None and row.state == "alive"):
            return True, told
        return False, {**told, "reason": "the other coordinator's state has not been copied yet, or it is not heard"}

    def run(self, stop: StopSignals, turned: Callable[[], None]) -> None:
        """Serve until `stop.requested`, or another key is to be taken; `turned` is called with each tick."""
        self._log.info("coordinator up", control=self.control_address, leads=self._leadership.leading)
        next_tick = time.monotonic()
        while not stop.requested and not self._succession.due:
            self._wait(stop, max(0.0, next_tick - time.monotonic()))
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + self._tick_s
                self._tick(now)
                turned()
            self._partner.push()
        self._log.info("coordinator stops")

    # --- what arrives ---------------------------------------------------------------------------------------

    def _wait(self, stop: StopSignals, timeout_s: float) -> None:
        """Handle what arrives, or return after `timeout_s`."""
        readable, writable = self._planner.readable, self._planner.writable
        poller = zmq.Poller()
        sources: list[Any] = [stop.fileno(), self._control.socket, self._control.monitor, self._copier.fileno()]
        door = self._door.socket if self._door is not None else None
        for source in (*sources, self._blobs.fileno(), readable, self._partner.socket, door):
            if source is not None:
                poller.register(source, zmq.POLLIN)
        if writable is not None:
            poller.register(writable, zmq.POLLOUT)
        ready = dict(poller.poll(int(timeout_s * 1000) + 1))
        self._wakes(time.monotonic())
        if stop.fileno() in ready:
            stop.drain()
        if self._door is not None and door in ready:
            self._door.serve()
        if self._control.socket in ready or self._control.monitor in ready:
            self._receive()
        if writable in ready:
            self._planner.write()
        answers = self._planner.read() if readable in ready else []
        if self._leader is not None:
            self._leader.answers(answers)
        self._hear()

    def _hear(self) -> None:
        """What came from the other coordinator, and over the blob channel."""
        now = time.monotonic()
        self._news(self._partner.received(now), now)
        self._news(self._partner.copied(now), now)
        uploaded = self._blobs.uploaded()
        if uploaded:
            self._partner.uploaded(uploaded)

    def _receive(self) -> None:
        for item in self._control.receive():
            now = time.monotonic()
            if isinstance(item, Lost):
                if item.peer.startswith("coordinator:"):
                    self._partner.lost(now)
                elif self._leader is not None:
                    self._leader.lost(item.peer, now)
                continue
            peer, message = item
            if isinstance(message, Follow):
                self._news(self._partner.follow(peer, message, now), now)
            else:
                self._message(peer, message, now)

    def _message(self, peer: str, message: Message, now: float) -> None:
        if isinstance(message, Hello) and message.role != "admin":
            self._steps(self._leadership.called(message.term), now)
        if self._leader is not None:
            self._leader.message(peer, message, now)
        else:
            self._control.send(peer, self._refusal())

    def _elsewhere(self) -> Refused | None:
        return self._refusal() if self._leader is None else None

    def _refusal(self) -> Refused:
        leader = self._partner.leader or (self._partner.address if self._leadership.passed_over else "")
        why = f"{leader} leads" if leader else "it does not know who leads"
        text = f"the coordinator at {self.control_address} stands by, and {why}"
        return Refused(code=NOT_LEADING, message=text, leader=leader)

    # --- who leads ------------------------------------------------------------------------------------------

    def _wakes(self, now: float) -> None:
        """Before anything is read: what waits may be older than what others did meanwhile."""
        still_s, self._awake = now - self._awake, now
        if still_s > STOOD_STILL_S:
            self._log.warning("stood still", seconds=round(still_s, 3))
            self._steps(self._leadership.stood_still(), now)

    def _tick(self, now: float) -> None:
        self._planner.warm(now)
        if self._authority.changed(now) and self._leader is not None:
            self._leader.revoke(self._authority.knows, now)
        if self._leader is not None:
            self._leader.tick(now)
        self._news(self._partner.tick(now), now)
        self._collector.tick(now, self._blobs.uploading_at, self._partner.wanted, self._blobs.filled_at)
        row = self._partner.row()
        self.ready = self._readiness(row)
        self.metrics.partner(leads=self._leadership.leading, row=row, copied=self._copier.bytes_copied, term=self.term)

    def _news(self, found: Iterable[other.News], now: float) -> None:
        for news in found:
            if isinstance(news, other.Heard):
                told = news.standing
                stamps = {"stamp": told.stamp, "echo": told.echo}
                steps = self._leadership.heard(told.coordinator, told.term, told.taken, leads=told.leads, **stamps)
                self._steps(steps, now)
            elif isinstance(news, other.Renamed):
                self._leadership.coordinator = news.coordinator
            elif isinstance(news, other.Silent):
                self._steps(self._leadership.silent(), now)
            elif isinstance(news, other.Merged) and self._leader is not None:
                self._leader.merged(news.rows, now)
            elif isinstance(news, other.Complete) and not self._leadership.able:
                self._store.completed()
                self._leadership.able = True
                self._log.info("everything is copied: this coordinator can take over")

    def _steps(self, steps: Iterable[lead.Step], now: float) -> None:
        for step in steps:
            if isinstance(step, lead.Promise):
                self._store.promise(step.term)
            elif isinstance(step, lead.Lead):
                self._lead(step.term, now)
            else:
                self._step_down(step.term)

    def _lead(self, term: int, now: float) -> None:
        self._store.take_term(term)
        config = self._config
        settings = Settings(
            term=term,
            cluster=self._store.cluster,
            plan_address=self.plan_address,
            blobs_address=self.blobs_address,
            ping_s=config.ping_ms / 1000,
            rejoin_s=config.rejoin_ms / 1000,
            drain_s=config.drain_s,
            max_replicas=config.max_replicas,
            standbys=config.standbys,
        )
        self._leader = Leader(settings, self._tools, now)
        self._log.info("leads", term=number_of(term), behind=self._partner.row() is not None)

    def _step_down(self, term: int) -> None:
        why = (
            "it may have been passed over" if self._leadership.passed_over else "another coordinator took a higher term"
        )
        self._log.warning(f"steps down: {why}", term=number_of(term))
        peers = self._leader.peers if self._leader is not None else []
        self._close()
        refusal = self._refusal()
        for peer in peers:
            self._control.send(peer, refusal)

    def _close(self) -> None:
        leader, self._leader = self._leader, None
        if leader is not None:
            leader.close()

    def _standing(self) -> Standing:
        stored = self._store.remembered()
        return Standing(
            coordinator=stored.coordinator,
            cluster=self._store.cluster,
            schema=SCHEMA_VERSION,
            address=self._config.control_address or self.control_address,
            blobs=self.blobs_address,
            term=self._leadership.term,
            taken=self._leadership.taken,
            leads=self._leadership.leading,
            stamp=self._leadership.stamp,
            echo=self._leadership.echo,
        )


def _bind_all(config: CoordinatorConfig, sockets: Sockets, store: Store) -> dict[str, tuple[Socket, str]]:
    """By channel's name the socket and its address; one for those who join is there with keys only."""
    wanted = [(CONTROL, config.port), (PLAN, config.plan_port), (BLOBS, config.blob_port)]
    if sockets.keyring is not None:
        wanted.append((JOIN, config.join_port))
    last = store.ports()
    bound = {channel.name: _bind(sockets, channel, config.host, port, last) for channel, port in wanted}
    store.save_ports({name: port_of(address) for name, (_, address) in bound.items()})
    return bound


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
    with StopSignals() as stop:
        while not stop.requested:
            config = _serve(config, stop)


def _serve(config: CoordinatorConfig, stop: StopSignals) -> CoordinatorConfig:
    """Serve until a signal, or until another key is to be taken; then again with what is returned."""
    with ExitStack() as stack:
        store = stack.enter_context(Store(config.data_dir, founding=not config.standby_of))
        take_next(config.keys_dir, store)
        keyring = read_keyring(config.keys_dir)
        if keyring is not None and keyring.own.public != keyring.coordinator:
            raise ConfigError(f"{config.keys_dir} holds the keys of {keyring.name!r}, not of a coordinator")
        sockets = stack.enter_context(closing(Sockets(keyring=keyring)))
        coordinator = Coordinator(config, store, sockets, stack)
        registry = coordinator.metrics.registry
        http = StatusServer(
            config.http_host, config.http_port, lambda: coordinator.ready, registry, Guard(config.http_token_file)
        )
        stack.callback(http.close)
        addresses = {"plan": coordinator.plan_address, "blobs": coordinator.blobs_address, "http": http.address}
        announce(config.ready_file, {"control": coordinator.control_address, **addresses})
        coordinator.run(stop, http.turned)
        return replace(config, http_port=port_of(http.address))
