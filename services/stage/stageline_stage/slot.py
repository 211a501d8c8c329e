"""The agent's one executor slot: it carries out what the supervisor decides and tells what happened."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Union

import zmq

from stageline.errors import ConfigError, RemoteProtocolError
from stageline.lifecycle import EXIT_USAGE
from stageline.logs import Logger
from stageline.messages import (
    LOCAL,
    Admitted,
    Backed,
    ExecutorDown,
    ExecutorHello,
    ExecutorInfo,
    Loaded,
    LoadFailed,
    Measured,
    Passage,
    Progress,
    Stop,
    ToAgent,
)
from stageline.plan import StageKey
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, Message, encode
from stageline_stage.process import ExecutorProcess, Launch
from stageline_stage.supervision import Kill, Spawn, Supervisor

CRASHES = (signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT)
"""Signals that code sends itself, so that what it ran is to blame."""


@dataclass(frozen=True)
class Died:
    """The executor ended; `was_up` if the coordinator may know it."""

    down: ExecutorDown
    was_up: bool


Happening = Union[ExecutorHello, Loaded, LoadFailed, Backed, Measured, Admitted, Died]


class ExecutorSlot:
    """Owns the LOCAL socket and the child process."""

    def __init__(self, socket: Socket, launch: Launch, supervisor: Supervisor, incarnation: str, log: Logger) -> None:
        self.socket = socket
        self.process: ExecutorProcess | None = None
        self._launch, self._supervisor = launch, supervisor
        self._incarnation, self._log = incarnation, log
        self._decode: Decoder[ToAgent] = Decoder(ToAgent)
        self._count = 0
        self._crashed = 0

    @property
    def up(self) -> bool:
        """Whether an executor is ready."""
        return self.process is not None and self.process.hello is not None and self._supervisor.state == "up"

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self.process is not None

    @property
    def progress(self) -> Progress | None:
        """The executor's last report."""
        return self.process.progress if self.process is not None else None

    @property
    def passages(self) -> tuple[Passage, ...]:
        """Which batches passed the executor, as it said last."""
        passage = self.process.passage if self.process is not None else None
        return (passage,) if passage is not None else ()

    @property
    def io_s(self) -> float:
        """Processor seconds of the executor's I/O thread."""
        return self.process.io_s if self.process is not None else 0.0

    def info(self, loaded: set[StageKey]) -> ExecutorInfo | None:
        """The executor as the coordinator gets to know it, if it is ready."""
        return self.process.info(loaded) if self.process is not None else None

    @property
    def restarts(self) -> int:
        """Executors that ended so far."""
        return self._supervisor.restarts

    def send(self, message: Message) -> None:
        """Tell the executor; dropped when it is not there (its death is reported on its own)."""
        if self.process is None or self.process.hello is None:
            return
        try:
            self.socket.send_multipart([self.process.executor.encode(), encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._log.warning("cannot reach the executor", reason=error.strerror)

    def received(self, now: float) -> Iterator[Happening]:
        """What the executor said."""
        while True:
            try:
                identity, data = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except ValueError:
                continue
            process = self.process
            if process is None or identity != process.executor.encode():
                continue  # the last words of one that has been reaped
            try:
                message = self._decode(data)
            except RemoteProtocolError as error:
                self._log.warning("malformed message from the executor", reason=error.message)
                continue
            self._supervisor.heard(now)
            process.heard(message)
            if isinstance(message, ExecutorHello):
                self._supervisor.hello(now)
                yield message
            elif isinstance(message, Loaded | LoadFailed | Backed | Measured | Admitted):
                yield message

    def watch(self, now: float) -> Iterator[Happening]:
        """Reap, kill and start as the supervisor says; call after `received`. `ConfigError` if it cannot start."""
        if self.process is not None and (code := self.process.ended()) is not None:
            yield self._reap(self.process, code, now)
        state = self.process.state if self.process is not None else ""
        for step in self._supervisor.tick(now, state):
            if isinstance(step, Spawn):
                self._spawn(now)
            elif isinstance(step, Kill):
                self.kill(step.reason)

    def stop(self) -> None:
        """Have the executor finish what is queued and end; one that is not ready is killed."""
        if self.process is not None and self.process.hello is None:
            self.kill("killed: not ready")
        self.send(Stop())
        self._supervisor.stop()

    def kill(self, reason: str) -> None:
        """SIGKILL."""
        if self.process is not None:
            self._log.warning("killing the executor", executor=self.process.executor, reason=reason)
            self.process.kill()

    def close(self) -> None:
        """Leave no process behind."""
        if self.process is not None:
            self.process.close()
            self.process = None

    def _spawn(self, now: float) -> None:
        self._count += 1
        launch = self._launch if self._count == 1 else replace(self._launch, backend_retry=False)
        self.process = ExecutorProcess(launch, f"{self._incarnation[:6]}.{self._count}", self._crashed)
        self._supervisor.spawned(now)
        self._log.info("executor started", executor=self.process.executor, pid=self.process.pid)

    def _reap(self, process: ExecutorProcess, code: int, now: float) -> Died:
        was_up, computing = process.hello is not None, process.computing()
        first = self._count == 1 and not was_up
        reason = self._supervisor.exited(now, code)
        self._crashed = process.pid if -code in CRASHES else 0
        process.close()
        self.process = None
        if first and code == EXIT_USAGE:
            raise ConfigError("the executor cannot start with these settings; it says why above")
        log = self._log.info if self._supervisor.state == "ended" else self._log.warning
        log("executor ended", executor=process.executor, exit_code=code, reason=reason)
        down = ExecutorDown(executor=process.executor, exit_code=code, reason=reason, computing=computing)
        return Died(down, was_up)


def bind_local(sockets: Sockets, incarnation: str) -> tuple[Socket, str]:
    """The socket that executors connect to, and its address."""
    return sockets.bind(LOCAL, f"ipc://@stageline-agent-{incarnation}")
