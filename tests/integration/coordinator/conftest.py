"""A real coordinator process, and a pretend agent that talks to it over a socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import waiting

from stageline.admin import AdminClient
from stageline.messages import (
    CONTROL,
    PLAN,
    BlockTime,
    ExecutorInfo,
    FromCoordinator,
    Hello,
    NodeInfo,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Profiled,
    ProfileRequest,
    Rejoin,
    Retire,
)
from stageline.plan import Digest, Endpoint, Plan, StageKey
from stageline.sockets import Sockets
from stageline.wire import Decoder, encode

DEADLINE_S = 30.0
T = TypeVar("T")
_control: Decoder[Any] = Decoder(FromCoordinator)
_plan: Decoder[Any] = Decoder(PLAN.to_connector)


class Process:
    """A coordinator on `data_dir`, ports as they were in its last run."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir = data_dir
        self.settings = settings
        self.ready: dict[str, Any] = {}
        self.start()

    @property
    def control(self) -> str:
        return str(self.ready["control"])

    def start(self) -> None:
        ready = self.data_dir / "ready.json"
        ready.unlink(missing_ok=True)
        self.child = self.spawn("--ready-file", str(ready))
        wait_until("the coordinator is up", lambda: ready.exists() or self.child.poll() is not None)
        assert self.child.poll() is None, self.log()
        self.ready = json.loads(ready.read_text())

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self.launch([sys.executable, "-m", "stageline_coordinator"], *arguments)

    def launch(self, program: Sequence[str], *arguments: str) -> subprocess.Popen[bytes]:
        """Start `program` with our settings as flags, then `arguments`."""
        command = [*program, "--data-dir", str(self.data_dir)]
        ports = {"port": 0, "plan_port": 0, "blob_port": 0, "http_port": 0, "rejoin_ms": 2000, "drain_s": 1}
        for name, value in {**ports, **self.settings}.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        with (self.data_dir / "log").open("ab") as log:
            return subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        self.child.kill()
        assert self.child.wait(DEADLINE_S) == -signal.SIGKILL

    def stop(self) -> int:
        self.child.terminate()
        return self.child.wait(DEADLINE_S)

    def log(self) -> str:
        return (self.data_dir / "log").read_text()

    def admin(self) -> AdminClient:
        return AdminClient(self.control)


class Peer:
    """An agent by its behaviour on the wire; `poll` reads and answers what has come."""

    def __init__(self, control: str, plan: str, name: str = "n0", incarnation: str = "i1") -> None:
        self.sockets = Sockets()
        self.name, self.incarnation = name, incarnation
        self.socket = self.sockets.connect(CONTROL, control, identity=f"agent:{name}".encode())
        self.subscriber = self.sockets.connect(PLAN, plan)
        self.loaded: tuple[StageKey, ...] = ()
        self.seen: list[Any] = []
        self.broadcasts: list[Plan | Digest] = []
        self.answers = True

    def hello(self) -> None:
        executor = ExecutorInfo("x1", os.getpid(), Endpoint(tcp="tcp://127.0.0.1:9"), tuple(self.loaded))
        node = NodeInfo(memory_bytes=1 << 30, fingerprint="fake", device="cpu", host="h", executors=(executor,))
        self.say(Hello(role="agent", name=self.name, incarnation=self.incarnation, node=node))

    def say(self, message: Any) -> None:
        self.socket.send(encode(message))

    def of(self, kind: type[T]) -> list[T]:
        return [message for message in [*self.seen, *self.broadcasts] if isinstance(message, kind)]

    def poll(self) -> None:
        while self.socket.poll(0):
            message = _control(self.socket.recv())
            self.seen.append(message)
            if self.answers:
                self.answer(message)
        while self.subscriber.poll(0):
            self.broadcasts.append(_plan(self.subscriber.recv_multipart()[1]))

    def answer(self, message: Any) -> None:
        if isinstance(message, Ping):
            self.say(Pong(sequence=message.sequence, sent_s=message.sent_s, incarnation=self.incarnation))
        elif isinstance(message, Rejoin):
            self.hello()
        elif isinstance(message, ProfileRequest):
            times = tuple(
                BlockTime(block=b, batch=n, seconds=0.001 * n) for b in message.blocks for n in message.batches
            )
            self.say(Profiled(manifest=message.manifest, fingerprint="fake", times=times))
        elif isinstance(message, Prepare):
            self.loaded = message.stages
            names = tuple("x1" for _ in message.stages)
            self.say(Prepared(term=message.term, version=message.version, stages=message.stages, executors=names))
        elif isinstance(message, Retire):
            self.loaded = tuple(stage for stage in self.loaded if stage in message.keep)

    def until(self, what: str, holds: Callable[[], Any]) -> None:
        def step() -> Any:
            self.poll()
            return holds()

        wait_until(what, step)


wait_until = partial(waiting.eventually, timeout_s=DEADLINE_S)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    yield process
    if process.child.poll() is None:
        assert process.stop() == 0, process.log()
    assert "Traceback" not in process.log()


@pytest.fixture
def join(coordinator: Process) -> Iterator[Callable[..., Peer]]:
    """Makes peers of the coordinator, closed at the end."""
    made: list[Peer] = []

    def make(**settings: Any) -> Peer:
        made.append(Peer(coordinator.control, coordinator.ready["plan"], **settings))
        return made[-1]

    yield make
    for peer in made:
        peer.sockets.close()
