"""The floor: a bare pyzmq pipeline that does nothing but hand frames on, uncopied.

Driver PUSH to worker 0, PUSH to worker 1, PUSH back to the driver: three hops of the wire, as Stageline's.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Sequence
from typing import Any, Literal

import zmq

HIGH_WATER = 1000
WORKERS = 2


class Floor:
    """Two processes that forward what they receive."""

    def __init__(self, transport: Literal["tcp", "ipc"]) -> None:
        self.name = f"pyzmq-{transport}"
        self.transport = f"ZeroMQ PUSH/PULL over {transport}"
        self._kind = transport
        self._processes: list[subprocess.Popen[bytes]] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def start(self) -> None:
        self._pull = self._context.socket(zmq.PULL)
        following = bind(self._pull, self._kind)
        for _ in range(WORKERS):
            command = [sys.executable, __file__, self._kind, following]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            self._processes.append(process)
            assert process.stdout is not None
            following = process.stdout.readline().decode().strip()
        self._push = self._context.socket(zmq.PUSH)
        self._push.connect(following)

    def run(self, nbytes: int, window: int, items: int) -> float:
        from contenders.driving import drive  # here, because a worker is this very file and does not need it

        payload = bytes(nbytes)
        return drive(self._push, self._pull, lambda i: [i.to_bytes(8, "little"), payload], _number, window, items)

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
            process.communicate()
        self._context.destroy(linger=0)


def bind(socket: zmq.Socket[bytes], kind: str) -> str:
    """Bind to a free address; returns it."""
    socket.bind("tcp://127.0.0.1:0" if kind == "tcp" else f"ipc://@bench-{uuid.uuid4().hex}")
    return socket.get_string(zmq.LAST_ENDPOINT)


def _number(frames: Sequence[Any]) -> int:
    return int.from_bytes(frames[0].buffer, "little")


def work(kind: str, following: str) -> None:
    """Forward for ever."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket in (pull, push):
        socket.set_hwm(HIGH_WATER)
    sys.stdout.write(bind(pull, kind) + "\n")
    sys.stdout.flush()
    push.connect(following)
    while True:
        push.send_multipart(pull.recv_multipart(copy=False), copy=False)


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2])
