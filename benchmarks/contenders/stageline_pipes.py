"""Stageline: between workers, where the driver plays the gateway on the data plane, and through the gateway."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from time import perf_counter
from typing import Any, Literal

import msgspec
import numpy as np

from cluster import BenchCluster, identity_model, route
from contenders.driving import drive
from stageline import Client
from stageline.client.core import InferResult
from stageline.data import DATA_VERSION, Activation, Tensor, encode_frames, header_bytes
from stageline.messages import DATA
from stageline.plan import ModelPlan
from stageline.sockets import Socket, Sockets

ROOM_BYTES = 125 << 20
WEIGHT_BYTES = (64 << 20, 32 << 20)
"""Of each block of the first and the second model: a worker has room for one block of either, not for a third."""


class IdentityCluster:
    """Two workers that serve an identity model for each size; shared by the contenders below."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._users = 0
        self.bench: BenchCluster
        self.plans: dict[int, ModelPlan] = {}

    def acquire(self) -> None:
        """Start with the first user."""
        self._users += 1
        if self._users == 1:
            self.bench = BenchCluster(nodes=2, memory_bytes=ROOM_BYTES)
            try:
                for size, weight_bytes in zip(self._sizes, WEIGHT_BYTES, strict=True):
                    manifest = identity_model(self.bench.store, model_name(size), size, weight_bytes=weight_bytes)
                    self.plans[size] = self.bench.serve(manifest, stages=2)
            except BaseException:
                self.release()
                raise

    def release(self) -> None:
        """Stop with the last."""
        self._users -= 1
        if self._users == 0:
            self.bench.close()


def model_name(nbytes: int) -> str:
    """The identity model for tensors of that size."""
    return f"identity-{nbytes}"


class Workers:
    """Driver to executor 0, executor 1, driver: three hops of the wire."""

    def __init__(self, shared: IdentityCluster, transport: Literal["tcp", "ipc"]) -> None:
        self.name = f"stageline-{transport}"
        self.transport = f"Stageline's data plane (ZeroMQ PUSH/PULL) over {transport}, eager torch"
        self._shared, self._kind = shared, transport
        self._pushes: dict[str, Socket] = {}

    def start(self) -> None:
        self._shared.acquire()
        self._sockets = Sockets()
        self._pull, endpoint = self._sockets.bind_data("127.0.0.1")
        self._reply = endpoint.tcp if self._kind == "tcp" else endpoint.ipc

    def run(self, nbytes: int, window: int, items: int) -> float:
        header, payload = self._header(nbytes), np.zeros(nbytes, np.uint8).data
        push = self._push(header.path[0].address)

        def frames_of(number: int) -> Sequence[Any]:
            return encode_frames(msgspec.structs.replace(header, batch=number, ids=(number,)), [payload])

        return drive(push, self._pull, frames_of, _batch, window, items)

    def stop(self) -> None:
        self._sockets.close()
        self._shared.release()

    def _push(self, address: str) -> Socket:
        if address not in self._pushes:
            self._pushes[address] = self._sockets.connect(DATA, address)
        return self._pushes[address]

    def _header(self, nbytes: int) -> Activation:
        plan = self._shared.plans[nbytes]
        return Activation(
            version=DATA_VERSION,
            gateway="bench/1",
            batch=0,
            ids=(0,),
            rows=(1,),
            attempt=1,
            epoch=(1, 1),
            path=route(plan, self._kind),
            hop=0,
            reply=self._reply,
            values=(Tensor("float32", (1, nbytes // 4)),),
        )


class _Number(msgspec.Struct, array_like=True, tag="Activation"):
    """The first fields of an `Activation`, which is all that the driver needs, as the floor's driver."""

    version: int
    gateway: str
    batch: int


_number = msgspec.msgpack.Decoder(_Number)


def _batch(frames: Sequence[Any]) -> int:
    """The batch's number; a `Failure` is refused by its tag."""
    return _number.decode(header_bytes(frames[0].buffer)[0]).batch


class ThroughGateway:
    """A `stageline.Client` over TCP, gateway, two workers over ipc; no batching."""

    name = "stageline"
    transport = "native protocol over TCP; ZeroMQ over ipc behind the gateway, eager torch"

    def __init__(self, shared: IdentityCluster) -> None:
        self._shared = shared

    def start(self) -> None:
        self._shared.acquire()
        self._client = Client(self._shared.bench.gateway)

    def run(self, nbytes: int, window: int, items: int) -> float:
        name, inputs = model_name(nbytes), {"x": np.zeros((1, nbytes // 4), np.float32)}
        waiting: deque[Future[InferResult]] = deque()
        begun = perf_counter()
        for number in range(items + window):
            if number >= window:
                _check(waiting.popleft().result(30), nbytes)
            if number < items:
                waiting.append(self._client.submit(name, inputs))
        return perf_counter() - begun

    def stop(self) -> None:
        self._client.close()
        self._shared.release()


def _check(result: InferResult, nbytes: int) -> None:
    if result.outputs["x"].nbytes != nbytes:
        raise RuntimeError("an answer of another size")
