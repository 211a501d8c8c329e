"""A stand-in for coordinator and gateway, and tiny models, to try real agents and executors with."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

from stageline.blocks import BlockSpec, DimRange, TensorRef, ValueSpec
from stageline.data import DATA_VERSION, Activation, Hop, Tensor, decode_frames, encode_frames
from stageline.manifest import ModelManifest, canonical_json
from stageline.messages import (
    BLOBS,
    CONTROL,
    DATA,
    BlobChunk,
    ErrorReply,
    ExecutorInfo,
    Hello,
    Ping,
    Pong,
    Prepare,
    Prepared,
    ToBlobs,
    ToCoordinator,
    Welcome,
)
from stageline.plan import StageKey
from stageline.sockets import Sockets
from stageline.wire import Decoder, Message, encode
from stageline_stage.tensorfile import tensor_bytes

DEADLINE_S = 60.0


class Models:
    """Blobs of tiny models, by SHA-256."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        sha = hashlib.sha256(data).hexdigest()
        self.blobs[sha] = data
        return sha

    def block(self, name: str, width: int, op: str, weight: torch.Tensor | None = None, repeat: int = 1) -> BlockSpec:
        """`repeat` times `op` on a value of (batch, width), with a weight as the second argument if given."""
        value = ValueSpec("x", "float32", ("batch", width))
        refs: tuple[TensorRef, ...] = ()
        if weight is not None:
            data = tensor_bytes(weight)
            shape = tuple(weight.shape)
            refs = (TensorRef("w", self.put(data), "float32", shape, weight.numel() * 4, len(data)),)
        extra = [{"ref": "w"}] if refs else []
        names = ["x", *(f"y{i}" for i in range(repeat))]
        graph = canonical_json(
            {
                "format": 1,
                "inputs": ["x"],
                "orders": {},
                "outputs": [names[-1]],
                "tensors": {"w": refs[0].sha256} if refs else {},
                "nodes": [
                    {"name": after, "op": op, "args": [{"ref": before}, *extra], "kwargs": {}}
                    for before, after in pairwise(names)
                ],
            }
        )
        return BlockSpec(name, self.put(graph), len(graph), refs, (value,), (value,), 1, 1 << 10)

    def model(self, *blocks: BlockSpec) -> str:
        """The manifest's SHA-256."""
        dims = {"batch": DimRange(1, 8, 1)}
        manifest = ModelManifest("tiny", blocks[0].inputs, blocks[-1].outputs, blocks, dims)
        return self.put(canonical_json(manifest.to_json()))


class Cluster:
    """Plays the coordinator (control, blobs) and the gateway (data) for one worker."""

    def __init__(self, folder: Path, models: Models) -> None:
        self.folder, self.models = folder, models
        self.sockets = Sockets()
        self.control, self.address = self.sockets.bind(CONTROL, "tcp://127.0.0.1:0")
        self.blob_socket, self.blob_address = self.sockets.bind(BLOBS, "tcp://127.0.0.1:0")
        self.results, self.endpoint = self.sockets.bind_data("127.0.0.1")
        self.serve_blobs = True
        self.blob_requests: list[Any] = []
        self.pongs: list[Pong] = []
        self.term = 1
        self.known, self.agent = False, b""
        self.agents: list[subprocess.Popen[bytes]] = []
        self.executor: ExecutorInfo | None = None
        self._control: Decoder[Any] = Decoder(ToCoordinator)
        self._blobs: Decoder[Any] = Decoder(ToBlobs)
        self._sequence, self._pinged = 0, 0.0

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        """A real agent."""
        command = [sys.executable, "-m", "stageline_stage", "--coordinator", self.address, "--name", "n1"]
        command += ["--cache-dir", str(self.folder / "cache"), "--http-port", "0", "--log-level", "warning"]
        command += ["--ready-file", str(self.folder / "ready"), *flags]
        self.agents.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        return self.agents[-1]

    def join(self, *flags: str) -> Hello:
        """A real agent that has said hello."""
        self.start(*flags)
        hello = self.wait_for(Hello)
        (self.executor,) = hello.node.executors
        return hello

    def restart(self) -> None:
        """Come back as a coordinator that knows nobody."""
        self.control, _ = self.sockets.bind(CONTROL, self.address)
        self.term += 1
        self.known = False

    def tell(self, message: Message) -> None:
        self.control.send_multipart([self.agent, encode(message)])

    def wait_for(self, kind: type[Any] | tuple[type[Any], ...], check: Callable[[Any], bool] = lambda _: True) -> Any:
        """The next message of that kind; everything else is answered or skipped meanwhile."""
        return self.pump(lambda message: isinstance(message, kind) and check(message))

    def pump(self, until: Callable[[Any], bool]) -> Any:
        """Play coordinator until a message is what is waited for."""
        deadline = time.monotonic() + DEADLINE_S
        poller = zmq.Poller()
        poller.register(self.control, zmq.POLLIN)
        poller.register(self.blob_socket, zmq.POLLIN)
        while time.monotonic() < deadline:
            self._ping()
            for socket, _ in poller.poll(50):
                identity, data = socket.recv_multipart()
                if socket is self.blob_socket:
                    self._answer_blob(identity, self._blobs(data))
                    message = self.blob_requests[-1]
                else:
                    message = self._control(data)
                    self._note(identity, message)
                if until(message):
                    return message
        raise AssertionError("what was waited for did not come")

    def _note(self, identity: bytes, message: Any) -> None:
        if isinstance(message, Hello):
            welcome = Welcome(term=self.term, plan="tcp://x", blobs=self.blob_address, ping_interval_s=0.1, cluster="c")
            self.control.send_multipart([identity, encode(welcome)])
            self.known, self.agent = True, identity
        elif isinstance(message, Pong):
            self.pongs.append(message)

    def _ping(self) -> None:
        now = time.monotonic()
        if self.known and now - self._pinged >= 0.1:
            self._pinged = now
            self._sequence += 1
            try:
                self.tell(Ping(sequence=self._sequence, sent_s=now))
            except zmq.ZMQError:
                return  # nobody of that name is connected

    def _answer_blob(self, identity: bytes, request: Any) -> None:
        self.blob_requests.append(request)
        if not self.serve_blobs:
            return
        data = self.models.blobs.get(request.sha256)
        if data is None:
            answer: Message = ErrorReply(id=request.id, code="blob_missing", message="no such blob")
            self.blob_socket.send_multipart([identity, encode(answer)])
            return
        answer = BlobChunk(id=request.id, sha256=request.sha256, offset=request.offset, total=len(data))
        chunk = data[request.offset : request.offset + request.length]
        self.blob_socket.send_multipart([identity, encode(answer), chunk])

    def prepare(self, version: int, *stages: StageKey) -> Any:
        """Prepare, and the answer."""
        self.tell(Prepare(term=self.term, version=version, stages=stages))
        answer = self.pump(lambda m: type(m).__name__ in ("Prepared", "PrepareFailed") and m.version == version)
        if isinstance(answer, Prepared):
            assert answer.stages == stages and set(answer.executors) == {self.executor.executor}
        return answer

    def activation(
        self, x: torch.Tensor, *stages: StageKey, number: int = 1, gateway: str = "g1", **more: Any
    ) -> list[Any]:
        """The frames of a batch through these stages, all on the one executor, over ipc and TCP in turn."""
        to = self.executor
        addresses = (to.endpoint.ipc, to.endpoint.tcp)
        path = tuple(Hop(stage, addresses[i % 2], "n1", to.executor) for i, stage in enumerate(stages))
        rows = x.shape[0]
        header = Activation(
            DATA_VERSION, gateway, number, tuple(range(rows)), (1,) * rows, 1, (1, 1), path, 0, self.endpoint.tcp,
            (Tensor("float32", tuple(x.shape)),), **more,
        )  # fmt: skip
        return encode_frames(header, [x.numpy().data])

    def push(self, *messages: list[Any]) -> None:
        """Send data messages to the executor."""
        socket = self.sockets.connect(DATA, self.executor.endpoint.ipc)
        for frames in messages:
            socket.send_multipart(frames)
        self._open = socket

    def result(self) -> tuple[Any, list[torch.Tensor]]:
        """The next outcome that reaches the gateway."""
        assert self.results.poll(DEADLINE_S * 1000), "no result came"
        header, buffers = decode_frames([bytes(f) for f in self.results.recv_multipart()])
        values = [torch.frombuffer(bytearray(b), dtype=torch.float32) for b in buffers]
        if isinstance(header, Activation):
            values = [v.reshape(spec.shape) for v, spec in zip(values, header.values, strict=True)]
        return header, values

    def ready(self) -> bool:
        """What /readyz says."""
        address = json.loads((self.folder / "ready").read_text())["http"]
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
                return bool(json.load(answer)["ready"])
        except urllib.error.HTTPError as error:
            assert error.code == 503
            error.close()
            return False

    def close(self) -> None:
        """Leave nothing behind."""
        for agent in self.agents:
            if agent.poll() is None:
                agent.kill()
            agent.communicate()
        if self.executor is not None:
            wait_until_gone(self.executor.pid)
        self.sockets.close()


def wait_until_gone(pid: int) -> None:
    """Wait until a process, perhaps not a child, has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], DEADLINE_S)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


def wait_for_state(pid: int, state: str) -> None:
    """Prove that a process is in a state of proc(5)."""
    deadline = time.monotonic() + DEADLINE_S
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def cluster(tmp_path: Path, models: Models) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, models)
    yield cluster
    cluster.close()


@pytest.fixture
def signals() -> Any:
    """Stop a process, and prove it."""

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        wait_for_state(pid, "T")

    return stop


@pytest.fixture
def gone() -> Callable[[int], None]:
    return wait_until_gone
