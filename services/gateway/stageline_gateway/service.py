"""The gateway process: startup, main loop, shutdown. It carries events to the engine and its instructions out."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from stageline import __version__, logs
from stageline.addresses import reachable
from stageline.config import GatewayConfig
from stageline.coordinators import Coordinators, read_addresses
from stageline.data import Activation, Buffer, Failure
from stageline.errors import StagelineError
from stageline.gatekeeper import Quiet
from stageline.http import Guard, StatusServer
from stageline.joining import advertised_host, node_keyring
from stageline.lifecycle import StopSignals
from stageline.messages import StageTime
from stageline.plan import Digest, Plan
from stageline.protocol import VERSIONS, Accepted, Describe, Described, Infer, Limits, ServerHello
from stageline.service_main import announce
from stageline.sockets import Sockets
from stageline_gateway import events as ev
from stageline_gateway.access import Access
from stageline_gateway.certificate import Certificate
from stageline_gateway.clients import ClientPort
from stageline_gateway.control import Addresses, ControlLink, Heartbeat
from stageline_gateway.core import Identity
from stageline_gateway.dataplane import DataPlane
from stageline_gateway.engine import Engine
from stageline_gateway.journal import Journal
from stageline_gateway.metrics import Metrics
from stageline_gateway.port import error_message
from stageline_gateway.probes import ProbePort
from stageline_gateway.receiving import Budget
from stageline_gateway.settings import settings_of

KEEPALIVE_S = 10.0
HOUSEKEEPING_S = 0.2
STAGE_TIMES_S = 1.0


def run(config: GatewayConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises `ConfigError` when a port is taken."""
    log = logs.configure(service="gateway", level=config.log_level, style=config.log_format, gateway=config.name)
    with StopSignals() as stop:
        asyncio.run(Gateway(config, log).serve(stop))


class Gateway:
    """Ties the engine to its sockets. Everything but /healthz, /readyz and /metrics happens in the loop's thread."""

    def __init__(self, config: GatewayConfig, log: logs.Logger) -> None:
        self._config = config
        self._log = log
        advertised = advertised_host(config.host, config.advertise_host, config.coordinator)
        self._sockets = Sockets(config.transport, node_keyring(config), advertised=advertised)
        self._access = Access(config.tokens_file, log) if config.tokens_file is not None else None
        self._certificate = (
            Certificate(config.tls_cert, config.tls_key, config.tls_client_ca, log) if config.tls_cert else None
        )
        self._say = Quiet()
        self._metrics = Metrics()
        self._ready: tuple[bool, dict[str, Any]] = (False, {"reason": "starting"})
        self._wake: asyncio.TimerHandle | None = None
        self._tell_times_at = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._drained: asyncio.Event
        self._engine: Engine
        self._data: DataPlane
        self._probes: ProbePort
        self._control: ControlLink
        self._clients: ClientPort
        self._journal: Journal | None = None
        self._actions: dict[type, Callable[[Any], None]] = {
            ev.Accept: lambda do: self._clients.send(do.client, Accepted(do.id)),
            ev.Answer: lambda do: self._clients.send(do.client, do.result, do.buffers),
            ev.Refuse: lambda do: self._clients.send(do.client, error_message(do.id, do.error)),
            ev.Disconnect: lambda do: self._clients.disconnect(do.client, do.error),
            ev.Dispatch: lambda do: self._data.send(do.address, do.header, do.buffers),
            ev.Abandon: lambda do: self._data.send(do.address, do.header),
            ev.WakeAt: self._wake_at,
            ev.FetchPlan: lambda do: self._control.fetch_plan(),
        }

    async def serve(self, stop: StopSignals) -> None:
        """Start, serve until a signal, drain, stop."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._defect)
        self._drained = asyncio.Event()
        stopped = asyncio.Event()
        status = self._status()
        try:
            await self._start(status.address)
            self._loop.add_reader(stop.fileno(), self._signalled, stop, stopped)
            await self._until(stopped, status)
            self._loop.remove_reader(stop.fileno())
            await self._drain()
        finally:
            status.close()
            self._sockets.close()

    def _status(self) -> StatusServer:
        config = self._config
        guard = Guard(config.http_token_file, self._access.allow if self._access is not None else None)
        certificate, registry = self._certificate, self._metrics.registry
        tls = (lambda: certificate.http) if certificate is not None else None
        return StatusServer(config.http_host, config.http_port, lambda: self._ready, registry, guard, tls)

    # --- startup and shutdown -------------------------------------------------------------------------------

    async def _start(self, http: str) -> None:
        config, loop = self._config, self._loop
        if config.journal is not None:
            self._journal = Journal(loop, config.journal, self._feed, self._log)
        bound = self._sockets.bind_data(
            config.host, port=config.data_port, reached_at=config.data_address, checksum=config.checksum
        )
        self._data = DataPlane(loop, self._sockets, bound, self._from_executor, self._link_changed, self._log)
        self._probes = ProbePort(loop, self._sockets, config.host, self._log)
        probe = self._probes.endpoint if not config.data_address else None  # else it is another way than the data's
        limits = Limits(
            config.max_request_bytes, config.max_in_flight, default_deadline_ms=float(config.default_deadline_ms)
        )
        asks = self._access is not None
        hello = ServerHello(VERSIONS, f"stageline {__version__}", config.name, limits, asks, KEEPALIVE_S)
        budget = Budget(config.receive_bytes)
        self._clients = ClientPort(loop, hello, self, budget, config.client_timeout_s, self._access, self._certificate)
        listening = await self._clients.listen(config.client_host, config.port)
        client = self._clients.scheme + reachable(listening, self._sockets.advertised or config.client_host)
        self._control = ControlLink(
            loop,
            self._sockets,
            Coordinators(read_addresses(config.coordinator)),
            Addresses(config.name, client, http, probe, self._data.endpoint),
            on_plan=self._from_coordinator,
            beat=self._beat,
            log=self._log,
        )
        name, first = f"{config.name}/{self._control.incarnation}", 1 + secrets.randbits(32)
        now = loop.time()
        identity = Identity(name, self._data.endpoint, first, time.time() - now, now)
        self._engine = Engine(settings_of(config), identity)
        if self._journal is not None:
            self._actions |= self._journal.actions
            self._feed(self._journal.restored())
        announce(config.ready_file, {"client": client, "http": http, "name": config.name})
        self._log.info("listening", client=client, http=http, coordinator=config.coordinator)

    def _signalled(self, stop: StopSignals, stopped: asyncio.Event) -> None:
        stop.drain()
        if stop.requested:
            stopped.set()

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._log.error("defect", what=context.get("message", ""), exc_info=context.get("exception"))

    async def _until(self, stopped: asyncio.Event, status: StatusServer) -> None:
        while not stopped.is_set():
            self._housekeeping()
            status.turned()
            try:
                await asyncio.wait_for(stopped.wait(), HOUSEKEEPING_S)
            except asyncio.TimeoutError:
                continue

    async def _drain(self) -> None:
        self._feed(ev.DrainBegan())
        self._housekeeping()
        self._log.info("draining", in_flight=sum(self._engine.in_flight.values()))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drained.wait(), self._config.drain_s)
        if self._journal is not None:
            await self._journal.close()  # what is left goes on after the restart, whatever its clients are told now
        self._feed(ev.DrainEnded())
        await self._clients.close()
        if self._wake is not None:
            self._wake.cancel()
        self._control.close()
        self._probes.close()
        self._data.close()
        self._log.info("stopped")

    def _housekeeping(self) -> None:
        self._clients.look()
        self._data.keep_only(self._engine.entrances(), self._engine.addresses())
        self._data.poll()
        self._probes.poll()
        self._control.poll()
        self._metrics.snapshot(self._engine)
        self._ready = self._readiness()

    def _readiness(self) -> tuple[bool, dict[str, Any]]:
        engine = self._engine
        if engine.draining:
            return False, {"reason": "stopping"}
        if engine.plan is None:
            return False, {"reason": self._control.refused or "no plan yet: the coordinator has not answered"}
        models = {model.name: model.reason or "serving" for model in engine.describe()}
        detail = {
            "models": models,
            "epoch": list(engine.epoch),
            "coordinator": "connected" if self._control.connected else "away: the last plan goes on",
        }
        return "serving" in models.values(), detail if models else {"reason": "no models are registered", **detail}

    def _beat(self) -> Heartbeat:
        """For the next pong; what stages took is told once a second."""
        now, times = self._loop.time(), tuple[StageTime, ...]()
        if now >= self._tell_times_at:
            self._tell_times_at = now + STAGE_TIMES_S
            times = self._engine.stage_times()
        return Heartbeat(self._engine.epoch, self._engine.oldest_in_flight, times, (self._engine.passage(now),))

    # --- events in ------------------------------------------------------------------------------------------

    def infer(self, client: int, message: Infer, buffers: Sequence[Buffer]) -> None:
        """A request came."""
        self._feed(ev.RequestArrived(client, message, buffers))

    def cancel(self, client: int, request_id: int) -> None:
        """A client gives up a request."""
        self._feed(ev.CancelRequested(client, request_id))

    def describe(self, client: int, message: Describe) -> None:
        """A client asks for models."""
        try:
            found = tuple(self._engine.describe(message.model))
        except StagelineError as error:
            self._clients.send(client, error_message(message.id, error))
            return
        self._clients.send(client, Described(message.id, found))

    def gone(self, client: int) -> None:
        """A connection is closed."""
        self._feed(ev.ClientGone(client))

    def turned_away(self, peer: str, error: StagelineError) -> None:
        """A client is not let in, or no longer."""
        self._metrics.turned_away(error.code)
        if self._say(peer.rpartition(":")[0]):
            self._log.warning("refused a client", peer=peer, reason=str(error), part="tokens")

    def limited(self, token: str) -> None:
        """A request went beyond what its token allows."""
        self._metrics.limited(token)

    def _from_executor(self, header: Activation | Failure, buffers: Sequence[Buffer], damaged: bool) -> None:
        if damaged:
            self._feed(ev.DamagedArrived(header))
            return
        self._feed(ev.ResultArrived(header, buffers) if isinstance(header, Activation) else ev.FailureArrived(header))

    def _link_changed(self, address: str, up: bool) -> None:
        self._log.info("executor connected" if up else "executor not reached", address=address)
        self._feed(ev.LinkChanged(address, up))

    def _from_coordinator(self, message: Plan | Digest) -> None:
        before = self._engine.epoch
        self._feed(ev.PlanApplied(message) if isinstance(message, Plan) else ev.DigestApplied(message))
        plan = self._engine.plan
        if plan is not None and plan.epoch != before:
            self._data.keep_only(self._engine.entrances(), self._engine.addresses())
            self._ready = self._readiness()
            self._log.info("plan applied", term=plan.term, version=plan.version, models=[m.name for m in plan.models])

    # --- instructions out -----------------------------------------------------------------------------------

    def _feed(self, event: ev.Event) -> None:
        for instruction in self._engine.handle(event, self._loop.time()):
            self._metrics.observe(instruction)
            self._actions[type(instruction)](instruction)
        if self._engine.draining and self._engine.idle:
            self._drained.set()

    def _wake_at(self, do: ev.WakeAt) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = self._loop.call_at(do.time, self._feed, ev.Tick())
