"""A real gateway process between fake coordinator and executors that run in a thread of the test."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import numpy as np
import pytest
import waiting
import zmq

from stageline import protocol as p
from stageline.data import Activation, Cancel, Failure, Tensor, Timing, decode_frames, encode_frames
from stageline.framing import FrameReader
from stageline.messages import (
    CONTROL,
    DATA,
    PLAN,
    TOPIC_DIGEST,
    TOPIC_PLAN,
    GetPlan,
    Hello,
    Ping,
    PlanReply,
    Pong,
    Rejoin,
    Welcome,
)
from stageline.plan import (
    Digest,
    DimRange,
    ModelPlan,
    NodeView,
    Plan,
    PlanStage,
    Replica,
    Signature,
    ValueSpec,
)
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, encode

WAIT_S = 20.0


def signature(width: int) -> Signature:
    return Signature(
        inputs=(ValueSpec("x", "float32", ("batch", width)),),
        outputs=(ValueSpec("y", "float32", ("batch", width)),),
        dims={"batch": DimRange(1, 64, 1)},
    )


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Wait until `condition` is true; fails naming `what`."""
    return waiting.eventually(what, condition, timeout_s)


class FakeExecutor:
    """Adds 1 to every element at each stage. `mode`: run, hold (swallow), late (keep for `release`), or fail."""

    def __init__(self, sockets: Sockets, node: str) -> None:
        self.node = node
        self.name = f"{node}/0"
        self.socket, self.endpoint = sockets.bind_data("127.0.0.1")
        self.mode = "run"
        self.retryable = True
        self.held: deque[tuple[Activation, list[Any]]] = deque()
        self.batches: list[Activation] = []
        self.cancelled: list[Cancel] = []
        self._sockets = sockets
        self._senders: dict[str, Socket] = {}

    @property
    def replica(self) -> Replica:
        return Replica(self.node, self.name, self.endpoint)

    def receive(self) -> None:
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            header, buffers = decode_frames(frames)
            if isinstance(header, Cancel):
                self.cancelled.append(header)
                continue
            assert isinstance(header, Activation)
            self.batches.append(header)
            if self.mode == "run":
                self.run(header, buffers)
            elif self.mode == "late":
                self.held.append((header, buffers))
            elif self.mode == "fail":
                failure = Failure(
                    header.version, header.gateway, header.batch, header.attempt, "failed", "it broke", self.node,
                    self.name, self.retryable,
                )  # fmt: skip
                self._send(header.reply, encode_frames(failure))

    def release(self) -> None:
        """Compute what was kept, newest first."""
        while self.held:
            self.run(*self.held.pop())

    def run(self, header: Activation, buffers: list[Any]) -> None:
        shape = next(v.shape for v in header.values if isinstance(v, Tensor))
        x = np.frombuffer(buffers[0], np.float32).reshape(shape)
        done = msgspec.structs.replace(
            header, hop=header.hop + 1, timings=(*header.timings, Timing(1, 2)), values=(Tensor("float32", shape),)
        )
        address = header.reply if done.finished else header.path[done.hop].address
        self._send(address, encode_frames(done, [(x + 1).tobytes()]))

    def _send(self, address: str, frames: list[Any]) -> None:
        if address not in self._senders:
            self._senders[address] = self._sockets.connect(DATA, address)
        socket = self._senders[address]
        if socket.poll(2000, zmq.POLLOUT):
            socket.send_multipart(frames, zmq.NOBLOCK)


class FakeCluster:
    """Coordinator and executors, in a thread of their own; everything else goes through `call`."""

    def __init__(self) -> None:
        self.sockets = Sockets()
        self.router, self.control = self.sockets.bind(CONTROL, "tcp://127.0.0.1:0")
        self.pub, self.plan_address = self.sockets.bind(PLAN, "tcp://127.0.0.1:0")
        self.executors: dict[str, FakeExecutor] = {}
        self.states: dict[str, str] = {}
        self.plan: Plan | None = None
        self.silent = False
        self.muted = False
        self.hellos: list[Hello] = []
        self.pongs: list[Pong] = []
        self.peers: set[bytes] = set()
        self.sequence = 0
        self._calls: SimpleQueue[tuple[Callable[[], Any], threading.Event, list[Any]]] = SimpleQueue()
        self._decode: Decoder[Any] = Decoder(CONTROL.to_binder)
        self._stop = threading.Event()
        self._next_beat = 0.0
        self._thread = threading.Thread(target=self._loop, name="fake-cluster")
        self._thread.start()

    def call(self, action: Callable[[], Any]) -> Any:
        """Run `action` in the cluster's thread and wait for it."""
        done, box = threading.Event(), []
        self._calls.put((action, done, box))
        assert done.wait(WAIT_S)
        return box[0]

    def add(self, *nodes: str) -> None:
        def make() -> None:
            for node in nodes:
                self.executors[node] = FakeExecutor(self.sockets, node)
                self.states[node] = "alive"

        self.call(make)

    def publish(self, stages: list[list[str]], *, status: str = "serving", reason: str = "", width: int = 4) -> Plan:
        """A new plan with one model; `stages` names the nodes of each stage."""

        def make() -> Plan:
            planned = tuple(
                PlanStage(i, i + 1, tuple(self.executors[n].replica for n in nodes), compute_s=0.001, output_bytes=16)
                for i, nodes in enumerate(stages)
            )
            model = ModelPlan("m", "ab" * 32, signature(width), status, reason, planned, input_bytes=16)  # type: ignore[arg-type]
            version = self.plan.version + 1 if self.plan else 1
            self.plan = Plan(1, version, (model,), self._views())
            self._broadcast()
            return self.plan

        plan: Plan = self.call(make)
        return plan

    def set_state(self, node: str, state: str) -> None:
        """As the failure detector would see it; told at once."""

        def change() -> None:
            self.states[node] = state
            self._digest()

        self.call(change)

    def set_mode(self, node: str, mode: str) -> None:
        self.call(lambda: setattr(self.executors[node], "mode", mode))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.sockets.close()

    def _views(self) -> tuple[NodeView, ...]:
        return tuple(
            NodeView(node, "i", state, (self.executors[node].name,) if state != "gone" else ())  # type: ignore[arg-type]
            for node, state in self.states.items()
        )

    def _loop(self) -> None:
        while not self._stop.is_set():
            poller = zmq.Poller()
            poller.register(self.router, zmq.POLLIN)
            for executor in self.executors.values():
                poller.register(executor.socket, zmq.POLLIN)
            poller.poll(5)
            while not self._calls.empty():
                action, done, box = self._calls.get()
                box.append(action())
                done.set()
            self._control()
            for executor in self.executors.values():
                executor.receive()
            if time.monotonic() >= self._next_beat and not self.silent:
                self._next_beat = time.monotonic() + 0.1
                self._beat()

    def _control(self) -> None:
        while True:
            try:
                peer, data = self.router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if self.silent:
                continue
            message = self._decode(data)
            if isinstance(message, Hello):
                self.hellos.append(message)
                self.peers.add(peer)
                self._say(peer, Welcome(1, self.plan_address, "", 0.1, "test"))
            elif isinstance(message, GetPlan):
                self._say(peer, PlanReply(message.id, self.plan or Plan(1, 0)))
            elif isinstance(message, Pong):
                self.pongs.append(message)

    def _say(self, peer: bytes, message: Any) -> None:
        try:
            self.router.send_multipart([peer, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:
            self.peers.discard(peer)

    def _beat(self) -> None:
        for peer in list(self.peers):
            self._say(peer, Ping(self.sequence, time.monotonic()))
        self._digest()

    def _digest(self) -> None:
        self.sequence += 1
        digest = Digest(1, self.plan.version if self.plan else 0, self.sequence, self._views())
        self.pub.send_multipart([TOPIC_DIGEST, encode(digest)])

    def _broadcast(self) -> None:
        if self.plan is not None and not self.muted:
            self.pub.send_multipart([TOPIC_PLAN, encode(self.plan)])

    def rejoin(self) -> None:
        self.call(lambda: [self._say(peer, Rejoin()) for peer in self.peers])


class GatewayProcess:
    """A `stageline-gateway` process."""

    def __init__(self, folder: Path, coordinator: str, **flags: Any) -> None:
        ready = folder / "ready.json"
        self.log = folder / "gateway.log"
        settings = {"port": 0, "http-port": 0, "coordinator": coordinator, "ready-file": ready, "name": "g", **flags}
        command = [sys.executable, "-m", "stageline_gateway"]
        for name, value in settings.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("STAGELINE_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        eventually(lambda: ready.exists() or self.process.poll() is not None, "the gateway is up")
        assert self.process.poll() is None, self.log.read_text()
        self.ready = json.loads(ready.read_text())

    @property
    def client(self) -> str:
        address: str = self.ready["client"]
        return address

    @property
    def http(self) -> str:
        address: str = self.ready["http"]
        return address

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the HTTP port."""
        scheme, _, place = self.http.partition("://")
        connection = http.client.HTTPConnection(place, timeout=10)
        if scheme == "https":
            connection = http.client.HTTPSConnection(place, timeout=10, context=ssl._create_unverified_context())
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The sum over all label values of a metric, -1 if there is none."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines) if lines else -1.0

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)


class RawClient:
    """A client that may misbehave."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), 20)
        self.reader = FrameReader(max_header=p.MAX_DESCRIBED_BYTES)
        self.messages: list[Any] = []

    def greet(self, **more: Any) -> p.ServerHello:
        """Exchange hellos."""
        hello: p.ServerHello = self.next()
        self.send(p.ClientHello(1, **more))
        return hello

    def send(self, message: Any, *buffers: Any) -> None:
        self.socket.sendall(b"".join(p.encode_frame(message, buffers)))

    def next(self) -> Any:
        """The next message, None when the connection was closed."""
        while not self.messages:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.messages += [p.decode_to_client(frame.header) for frame in self.reader.feed(data)]
        return self.messages.pop(0)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.fixture
def raw() -> type[RawClient]:
    return RawClient


@pytest.fixture
def serving(cluster: FakeCluster, start_gateway: Callable[..., GatewayProcess]) -> GatewayProcess:
    """A gateway in front of two stages: worker a, then b or c."""
    cluster.add("a", "b", "c")
    cluster.publish([["a"], ["b", "c"]])
    gateway = start_gateway()
    eventually(lambda: gateway.get("/readyz")[0] == 200, "the gateway is ready")
    return gateway


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Any]:
    return eventually


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    made = FakeCluster()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def start_gateway(cluster: FakeCluster, tmp_path: Path) -> Iterator[Callable[..., GatewayProcess]]:
    running: list[GatewayProcess] = []

    def start(**flags: Any) -> GatewayProcess:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(GatewayProcess(folder, cluster.control, **flags))
        return running[-1]

    try:
        yield start
    finally:
        for gateway in running:
            gateway.close()
