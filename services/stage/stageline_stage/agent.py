"""The agent: one thread that talks to the coordinator and minds the executor. No torch here.

Everything that takes time happens elsewhere (downloads in the fetcher's thread, loading and computing in the
executor), so a `Ping` is answered at once whatever goes on.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version
from os import getpid, sched_getaffinity
from typing import Any

import msgspec
import zmq

from stageline import messages, reached
from stageline.absence import COMPLAINT, Absence
from stageline.addresses import reachable
from stageline.blobs import BlobStore
from stageline.config import StageConfig
from stageline.coordinators import NOT_LEADING, Coordinators, read_addresses
from stageline.errors import ClusterError, ConfigError
from stageline.http import Guard, StatusServer
from stageline.lifecycle import StopSignals
from stageline.logs import Logger
from stageline.rotation import Rotation
from stageline.service_main import announce
from stageline.sockets import Sockets, host_key
from stageline.wire import Message
from stageline_stage.admission import Admission
from stageline_stage.control import ControlLink
from stageline_stage.departure import Departure
from stageline_stage.fetch import Fetcher
from stageline_stage.membership import Membership
from stageline_stage.probing import Prober
from stageline_stage.process import Launch
from stageline_stage.resources import available_bytes, cpu_name, cpu_quota
from stageline_stage.slot import ExecutorSlot, bind_local
from stageline_stage.status import Status, registry
from stageline_stage.supervision import Patience, Supervisor
from stageline_stage.upkeep import Upkeep
from stageline_stage.upkeep import share as upkeep_share
from stageline_stage.work import Work

TICK_MS = 50


class Agent:
    """A stage worker's agent; `run` returns when it has left the cluster."""

    def __init__(self, config: StageConfig, sockets: Sockets, log: Logger) -> None:
        now = time.monotonic()
        self._config, self._log = config, log
        self._incarnation = uuid.uuid4().hex
        self._host, self._cpu, self._available = host_key(), cpu_name(), available_bytes()
        self._cluster = ""
        self._announced = False
        self._membership, self._departure = Membership(now), Departure(config.drain_s)
        self._absence = Absence()
        self._upkeep, self._capacity = Upkeep(), cpu_quota() or float(len(sched_getaffinity(0)))
        self._store = BlobStore(config.cache_dir, config.cache_max_bytes)
        self._coordinators = Coordinators(read_addresses(config.coordinator))
        self._chosen = True
        self._rotation = Rotation(sockets.keyring)
        failed = self._rotation.refused
        self._control = ControlLink(sockets, self._coordinators, config.name, self._incarnation, log, failed)
        self._slot = self._make_slot(sockets, now)
        self.status = Status()
        self._http = StatusServer(
            config.http_host,
            config.http_port,
            lambda: self.status.ready(),
            registry(lambda: self.status),
            Guard(config.http_token_file),
        )
        self._fetcher = Fetcher(sockets, self._store, config.name, log, config.cache_keep_s)
        self._prober = Prober(sockets, config.host, self._host, log)
        self._work = Work(self._fetcher, self._slot, self._control.send, log)
        self._keyring = sockets.keyring
        self._admission = Admission(sockets.keyring, self._control.send, self._slot.send)

    def _make_slot(self, sockets: Sockets, now: float) -> ExecutorSlot:
        config = self._config
        socket, address = bind_local(sockets, self._incarnation)
        launch = Launch(
            agent=address,
            node=config.name,
            host=config.host,
            transport=config.transport,
            device=config.device,
            threads=config.threads,
            log_level=config.log_level,
            log_format=config.log_format,
            data_port=config.data_port,
            data_address=config.data_address,
            checksum=config.checksum,
            advertised=sockets.advertised,
            backend=config.backend,
            backend_retry=config.backend_retry,
            compiled_dir=str(config.cache_dir / "compiled"),
            compiled_bytes=config.cache_max_bytes,
            keyring=sockets.keyring,
        )
        supervisor = Supervisor(Patience(start_s=config.start_timeout_s), now)
        return ExecutorSlot(socket, launch, supervisor, self._incarnation, self._log)

    def run(self) -> None:
        """Serve until told to stop. `ClusterError` when the coordinator refuses us for good."""
        with StopSignals() as signals:
            try:
                while self._step(signals):
                    pass
            finally:
                self._slot.close()
                self._fetcher.close()
                self._prober.close()
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
            self._absence.heard()
            self._handle(message, now)
        for event in self._fetcher.events():
            self._work.fetched(event)
        for result in (*self._prober.results(), *self._rotation.answers()):
            self._control.send(result)
        for happening in (*self._slot.received(now), *self._slot.watch(now)):
            if isinstance(happening, messages.ExecutorHello):
                self._admission.executor_up()
            if isinstance(happening, messages.Admitted):
                self._admission.admitted(happening)
            else:
                self._work.happened(happening)
        self._join(now)
        going_on = self._leave(now)
        self.status = self._snapshot(now)
        self._http.turned()
        return going_on

    def _wait(self, signals: StopSignals) -> None:
        poller = zmq.Poller()
        sources: list[Any] = [self._control.socket, self._slot.socket, signals.fileno()]
        sources += [self._fetcher.fileno(), self._prober.fileno()]
        if self._slot.process is not None:
            sources.append(self._slot.process.fileno())
        for source in sources:
            poller.register(source, zmq.POLLIN)
        poller.poll(TICK_MS)

    def _handle(self, message: Message, now: float) -> None:
        handlers: Mapping[type[Message], Callable[[Any, float], None]] = {
            messages.Ping: self._on_ping,
            messages.Welcome: self._on_welcome,
            messages.Rejoin: lambda _, at: self._membership.rejoin(at),
            messages.Refused: self._on_refused,
            messages.Prepare: lambda m, _: self._work.prepare(m),
            messages.Retire: lambda m, _: self._work.retire(m),
            messages.ProfileRequest: lambda m, _: self._work.profile(m),
            messages.ProbeRequest: lambda m, _: self._prober.probe(m),
            messages.Farewell: lambda *_: self._departure.farewell(),
            messages.Reached: lambda m, _: reached.tell(self._log, "worker", m),
            messages.MakeKey: lambda *_: self._rotation.make(),
            messages.NextKey: lambda m, _: self._rotation.announced(m),
            messages.KeyTaken: lambda m, _: self._on_key_taken(m),
            messages.Admit: lambda m, _: self._admission.admit(m, executor_up=self._slot.up),
        }
        handler = handlers.get(type(message))
        if handler is not None:
            handler(message, now)

    def _on_ping(self, message: messages.Ping, now: float) -> None:
        self._membership.pinged(now)
        self._upkeep.add(now, time.process_time() + self._slot.io_s)
        progress = self._slot.progress
        if progress is not None and self._work.backends.rows:
            progress = msgspec.structs.replace(progress, backends=self._work.backends.rows)
        self._control.send(
            messages.Pong(
                sequence=message.sequence,
                sent_s=message.sent_s,
                incarnation=self._incarnation,
                epoch=self._work.loading.epoch,
                progress=(progress,) if progress is not None else (),
                passages=self._slot.passages,
                upkeep=upkeep_share(self._upkeep.cpus, self._capacity, self._config.threads),
            )
        )

    def _on_welcome(self, message: messages.Welcome, now: float) -> None:
        if not self._coordinators.welcomed(message.cluster, message.term):
            self._log.warning("a coordinator of the past is not listened to", term=message.term)
            self._membership.stands_by(now, elsewhere=False)
            return
        self._membership.welcomed(now)
        self._rotation.welcomed()
        self._departure.welcomed()
        self._fetcher.transfer.address = reachable(message.blobs, self._coordinators.current)
        if self._cluster not in ("", message.cluster):
            self._work.loading.new_cluster()
        self._cluster = message.cluster
        self._log.info("joined", cluster=message.cluster, term=message.term)
        self._work.welcomed()

    def _on_key_taken(self, message: messages.KeyTaken) -> None:
        if not self._rotation.taken(message):
            return
        self._log.info("shows a new key from now on", key=message.public.hex()[:16])
        hello = self._work.hello
        if hello is not None:  # else there is nothing to say yet, and the connection of before will do
            self._control.renew()
            self._control.send(self._hello(hello))

    def _on_refused(self, message: messages.Refused, now: float) -> None:
        if message.code == NOT_LEADING:
            self._chosen = self._coordinators.redirected(message.leader)
            self._membership.stands_by(now, elsewhere=self._chosen)
            return
        self._log.warning("the coordinator refused us", code=message.code, reason=message.message)
        if self._membership.refused(now, message.code):
            raise ClusterError(f"the coordinator refuses the name {self._config.name!r}: {message.message}")

    def _join(self, now: float) -> None:
        hello = self._work.hello
        if hello is None:
            return
        if not self._announced:
            self._announced = True
            self._work.loading.room_bytes = max(0, self._memory_bytes(hello) - hello.base_bytes)
            addresses = {"http": self._http.address, "executor_pid": hello.pid, "name": self._config.name}
            announce(self._config.ready_file, addresses)
        step = self._membership.tick(now)
        if step == "reconnect":
            if not self._chosen:
                self._coordinators.go_on()
            self._chosen = False
            self._control.reconnect()
        if step != "wait":
            if self._absence.greeted(now):
                self._log.warning(COMPLAINT, coordinator=self._coordinators.current)
            self._control.send(self._hello(hello))

    def _hello(self, hello: messages.ExecutorHello) -> messages.Hello:
        info = self._slot.info(self._work.loading.loaded)
        node = messages.NodeInfo(
            memory_bytes=self._memory_bytes(hello),
            fingerprint=hello.fingerprint,
            device=hello.device,
            host=self._host,
            base_bytes=hello.base_bytes,
            executors=(info,) if info is not None else (),
            cpu=self._cpu,
            backend=hello.backend,
            hop_s=hello.hop_s,
            byte_s=hello.byte_s,
        )
        return messages.Hello(
            role="agent",
            name=self._config.name,
            incarnation=self._incarnation,
            version=version("stageline"),
            pid=getpid(),
            http=self._http.address,
            node=node,
            probe=None if self._config.data_address else self._prober.endpoint,  # a proxy's way is another one
            term=self._coordinators.term,
            data_key=self._keyring.data.public if self._keyring is not None else b"",
            features=(messages.REACHED, messages.ROTATES),
        )

    def _memory_bytes(self, hello: messages.ExecutorHello) -> int:
        """All that the worker may use, the runtime included; the setting names what is left without it."""
        if self._config.memory_bytes:
            return self._config.memory_bytes + hello.base_bytes
        return hello.memory_bytes or self._available

    def _leave(self, now: float) -> bool:
        step = self._departure.tick(now, joined=self._membership.joined(now), executor_runs=self._slot.runs)
        if step == "announce":
            self._log.info("leaving")
            self._control.send(messages.Leaving(name=self._config.name))
        elif step == "stop":
            self._slot.stop()
        elif step == "kill":
            self._slot.kill("it did not finish in time")
        return step != "exit"

    def _snapshot(self, now: float) -> Status:
        return Status(
            joined=self._membership.joined(now),
            executor_up=self._slot.up,
            leaving=self._departure.phase != "serving",
            progress=self._slot.progress,
            restarts=self._slot.restarts,
            stages=len(self._work.loading.loaded),
            bytes_fetched=self._fetcher.transfer.bytes_fetched,
            cache_bytes=self._store.total_bytes,
            backends=self._work.backends.counts,
            fallbacks=self._work.backends.fallbacks,
        )


def check_device(name: str) -> None:
    """Raise `ConfigError` unless `name` has the form of a device; whether it exists is for the executor to say."""
    kind, _, number = name.partition(":")
    if not (name in ("auto", "cpu", "cuda") or (kind == "cuda" and number.isdigit())):
        raise ConfigError(f"device must be auto, cpu or cuda:N, got {name!r}")
