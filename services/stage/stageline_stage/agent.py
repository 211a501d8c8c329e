"""The agent: one thread that talks to the coordinator and minds the executor. No torch here.

Everything that takes time happens elsewhere (downloads in the fetcher's thread, loading and computing in the
executor), so a `Ping` is answered at once whatever goes on.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from os import getpid
from typing import Any

import zmq

from stageline.blobs import BlobStore
from stageline.config import StageConfig
from stageline.errors import ClusterError, ConfigError
from stageline.http import StatusServer
from stageline.lifecycle import StopSignals
from stageline.logs import Logger
from stageline.messages import (
    ExecutorHello,
    ExecutorUp,
    Farewell,
    Hello,
    Leaving,
    Loaded,
    LoadFailed,
    Measured,
    NodeInfo,
    Ping,
    Pong,
    Prepare,
    ProfileRequest,
    Refused,
    Rejoin,
    Retire,
    Welcome,
)  # fmt: skip
from stageline.service_main import announce
from stageline.sockets import Sockets, host_key
from stageline.wire import Message
from stageline_stage import fetch, loading
from stageline_stage.control import ControlLink
from stageline_stage.departure import Departure
from stageline_stage.membership import Membership
from stageline_stage.process import Launch
from stageline_stage.profiling import Profiling
from stageline_stage.resources import available_bytes, cpu_name
from stageline_stage.slot import Died, ExecutorSlot, bind_local
from stageline_stage.status import Status, registry
from stageline_stage.supervision import Patience, Supervisor

TICK_S = 0.05


class Agent:
    """A stage worker's agent; `run` returns when it has left the cluster."""

    def __init__(self, config: StageConfig, sockets: Sockets, log: Logger) -> None:
        now = time.monotonic()
        self._config, self._log = config, log
        self._incarnation = uuid.uuid4().hex
        self._host = host_key()
        self._cpu = cpu_name()
        self._available = available_bytes()
        self._cluster = ""
        self._first_hello: ExecutorHello | None = None
        self._store = BlobStore(config.cache_dir, config.cache_max_bytes)
        self._fetcher = fetch.Fetcher(sockets, self._store, config.name, log)
        self._loading = loading.Loading()
        self._profiling = Profiling()
        self._membership = Membership(now)
        self._departure = Departure(config.drain_s)
        self._control = ControlLink(sockets, config.coordinator, config.name, log)
        socket, address = bind_local(sockets, self._incarnation)
        patience = Patience(start_s=config.start_timeout_s)
        launch = Launch(
            address, config.name, config.host, config.device, config.threads, config.log_level, config.log_format
        )
        self._slot = ExecutorSlot(socket, launch, Supervisor(patience, now), self._incarnation, log)
        self.status = Status()
        self._http = StatusServer(
            config.host, config.http_port, lambda: self.status.ready(), registry(lambda: self.status)
        )

    def run(self) -> None:
        """Serve until told to stop. `ClusterError` when the coordinator refuses us for good."""
        with StopSignals() as signals:
            try:
                while self._step(signals):
                    pass
            finally:
                self._slot.close()
                self._fetcher.close()
                self._http.close()
        self._log.info("left")

    def _step(self, signals: StopSignals) -> bool:
        """One turn of the main loop; False when it was the last."""
        self._wait(signals)
        now = time.monotonic()
        if signals.requested:
            signals.drain()
            self._departure.begin(now)
        for message in self._control.received():
            self._handle(message, now)
        for event in self._fetcher.events():
            self._on_fetched(event)
        for happening in (*self._slot.received(now), *self._slot.watch(now)):
            self._on_executor(happening)
        self._join(now)
        going_on = self._leave(now)
        self.status = self._snapshot(now)
        return going_on

    def _wait(self, signals: StopSignals) -> None:
        poller = zmq.Poller()
        sources: list[Any] = [self._control.socket, self._slot.socket, signals.fileno(), self._fetcher.fileno()]
        if self._slot.process is not None:
            sources.append(self._slot.process.fileno())
        for source in sources:
            poller.register(source, zmq.POLLIN)
        poller.poll(round(TICK_S * 1000))

    # --- the coordinator --------------------------------------------------------------------------------------

    def _handle(self, message: Message, now: float) -> None:
        handlers: Mapping[type[Message], Callable[[Any, float], None]] = {
            Ping: self._on_ping,
            Welcome: self._on_welcome,
            Rejoin: lambda _, at: self._membership.rejoin(at),
            Refused: self._on_refused,
            Prepare: lambda m, _: self._do(self._loading.prepare(m)),
            Retire: lambda m, _: self._do(self._loading.retire(m)),
            ProfileRequest: self._on_profile,
            Farewell: lambda *_: self._departure.farewell(),
        }
        handler = handlers.get(type(message))
        if handler is not None:
            handler(message, now)

    def _on_ping(self, message: Ping, now: float) -> None:
        self._membership.pinged(now)
        process = self._slot.process
        progress = (process.progress,) if process is not None and process.progress is not None else ()
        self._control.send(
            Pong(
                sequence=message.sequence,
                sent_s=message.sent_s,
                incarnation=self._incarnation,
                epoch=self._loading.epoch,
                progress=progress,
            )
        )

    def _on_welcome(self, message: Welcome, now: float) -> None:
        self._membership.welcomed(now)
        self._departure.welcomed()
        self._fetcher.transfer.address = message.blobs
        if self._cluster not in ("", message.cluster):
            self._loading.new_cluster()
        self._cluster = message.cluster
        self._log.info("joined", cluster=message.cluster, term=message.term)
        self._do(self._loading.welcomed())

    def _on_refused(self, message: Refused, now: float) -> None:
        self._log.warning("the coordinator refused us", code=message.code, reason=message.message)
        if self._membership.refused(now, message.code):
            raise ClusterError(f"the coordinator refuses the name {self._config.name!r}: {message.message}")

    def _on_profile(self, message: ProfileRequest, _: float) -> None:
        if self._profiling.request(message):
            self._fetcher.profile(message)

    def _join(self, now: float) -> None:
        if self._first_hello is None or (step := self._membership.tick(now)) == "wait":
            return
        if step == "reconnect":
            self._control.reconnect()
        self._control.send(
            Hello(
                role="agent",
                name=self._config.name,
                incarnation=self._incarnation,
                version=version("stageline"),
                pid=getpid(),
                http=self._http.address,
                node=self._node(self._first_hello),
            )
        )

    def _node(self, hello: ExecutorHello) -> NodeInfo:
        info = self._slot.process.info(self._loading.loaded) if self._slot.process is not None else None
        return NodeInfo(
            memory_bytes=self._memory_bytes(hello),
            fingerprint=hello.fingerprint,
            device=hello.device,
            host=self._host,
            base_bytes=hello.base_bytes,
            executors=(info,) if info is not None else (),
            cpu=self._cpu,
            backend=hello.backend,
        )

    def _memory_bytes(self, hello: ExecutorHello) -> int:
        """All that the worker may use, the runtime included; a setting names what is left without it."""
        if self._config.memory_bytes:
            return self._config.memory_bytes + hello.base_bytes
        return hello.memory_bytes or self._available

    # --- stages and measurements ------------------------------------------------------------------------------

    def _do(self, instructions: Iterable[loading.Instruction]) -> None:
        for step in instructions:
            if isinstance(step, loading.Fetch):
                self._fetcher.prepare(step)
            elif isinstance(step, loading.Pin):
                self._fetcher.pin(step.blobs)
            elif isinstance(step, loading.ToExecutor):
                self._slot.send(step.message)
            else:
                self._log.info("prepare answered", answer=type(step.message).__name__, epoch=self._loading.epoch)
                self._control.send(step.message)

    def _on_fetched(self, event: fetch.Fetched) -> None:
        if isinstance(event, fetch.StagesFetched):
            self._do(self._loading.fetched(event.epoch, event.files))
        elif isinstance(event, fetch.StageFailed):
            self._do(self._loading.fetch_failed(event.epoch, event.stage, event.code, event.message))
        elif isinstance(event, fetch.ProfileFetched):
            for measure in self._profiling.fetched(event.request, event.manifest_file, event.graphs):
                self._slot.send(measure)
        else:
            self._send_all(self._profiling.failed(event.request, event.message, self._fingerprint))

    def _on_executor(self, happening: Any) -> None:
        if isinstance(happening, ExecutorHello):
            self._on_executor_up(happening)
        elif isinstance(happening, Died):
            self._loading.executor_down()
            self._send_all([happening.down] if happening.was_up else [])
            self._send_all(self._profiling.executor_down(self._fingerprint))
        elif isinstance(happening, Loaded):
            self._log.info("stage loaded", stage=str(happening.stage), seconds=round(happening.seconds, 3))
            self._do(self._loading.stage_loaded(happening.stage))
        elif isinstance(happening, LoadFailed):
            self._do(self._loading.load_failed(happening.stage, happening.code, happening.message))
        elif isinstance(happening, Measured):
            self._send_all(self._profiling.measured(happening, self._fingerprint))

    def _on_executor_up(self, hello: ExecutorHello) -> None:
        first, self._first_hello = self._first_hello is None, hello
        self._loading.room_bytes = max(0, self._memory_bytes(hello) - hello.base_bytes)
        if first:
            addresses = {"http": self._http.address, "executor_pid": hello.pid, "name": self._config.name}
            announce(self._config.ready_file, addresses)
        info = self._slot.process.info(self._loading.loaded) if self._slot.process is not None else None
        if info is not None and not first:
            self._control.send(ExecutorUp(executor=info))
        self._do(self._loading.executor_up(hello.executor))

    @property
    def _fingerprint(self) -> str:
        return self._first_hello.fingerprint if self._first_hello is not None else ""

    def _send_all(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._control.send(message)

    # --- leaving and telling ----------------------------------------------------------------------------------

    def _leave(self, now: float) -> bool:
        step = self._departure.tick(now, joined=self._membership.joined(now), executor_runs=self._slot.runs)
        if step == "announce":
            self._log.info("leaving")
            self._control.send(Leaving(name=self._config.name))
        elif step == "stop":
            self._slot.stop()
        elif step == "kill":
            self._slot.kill("it did not finish in time")
        return step != "exit"

    def _snapshot(self, now: float) -> Status:
        progress = self._slot.process.progress if self._slot.process is not None else None
        return Status(
            joined=self._membership.joined(now),
            executor_up=self._slot.up,
            leaving=self._departure.phase != "serving",
            executor=progress.executor if progress else "",
            items_done=progress.items_done if progress else 0,
            busy_s=progress.busy_s if progress else 0.0,
            queue_depth=progress.queue_depth if progress else 0,
            restarts=self._slot.restarts,
            stages=len(self._loading.loaded),
            bytes_fetched=self._fetcher.transfer.bytes_fetched,
            cache_bytes=self._store.total_bytes,
        )


def check_device(name: str) -> None:
    """Raise `ConfigError` unless `name` has the form of a device; whether it exists is for the executor to say."""
    kind, _, number = name.partition(":")
    if not (name in ("auto", "cpu", "cuda") or (kind == "cuda" and number.isdigit())):
        raise ConfigError(f"device must be auto, cpu or cuda:N, got {name!r}")
