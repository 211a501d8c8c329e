"""A closed-loop load on the wire itself, below any client library: what the gateway says is noted as it comes."""

from __future__ import annotations

import heapq
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from stageline.client.core import parse_address
from stageline.data import Buffer
from stageline.errors import ProtocolError, from_wire
from stageline.framing import Frame, FrameReader
from stageline.protocol import (
    Accepted,
    ClientHello,
    Error,
    Infer,
    Ping,
    Result,
    ServerHello,
    TensorSpec,
    decode_to_client,
    encode_frame,
)

from .ledger import Ledger
from .model import NAME, WIDTH, Judge

TURN_S = 0.05
PING_S = 3.0
PAUSE_S = 0.05
"""Before a place in the loop is used again whose request was refused."""


class Load:
    """Keeps `width` requests under way until `stop`; a context manager.

    What is not answered when its connection breaks is sent again over the next, under the same idempotency key. A
    `silent` one sends nothing more after a break, and asks for what it is owed when `ask_again` is called. Of several
    gateways (addresses with commas between them) it goes to the next when its connection breaks.
    """

    def __init__(
        self, address: str, judge: Judge, ledger: Ledger, *, width: int, deadline_s: float, run: str,
        silent: bool = False,
    ) -> None:  # fmt: skip
        self.ledger = ledger
        self._silent, self._withheld = silent, False
        self._asked = threading.Event()
        self._addresses, self._judge = deque(map(parse_address, address.split(","))), judge
        self._width, self._deadline_s, self._run_name = width, deadline_s, run
        self._next = 1
        self._free: list[float] = [0.0] * width
        self._stop_at: float | None = None
        self._reader = FrameReader()
        self._socket: socket.socket | None = None
        self._failure: BaseException | None = None
        self._pinged = 0.0
        self._greeted = self._resent = False
        self._thread = threading.Thread(target=self._guard, name="fault-load", daemon=True)
        self._thread.start()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(0.0)

    def stop(self, patience_s: float) -> None:
        """Send no more and wait so long at most for what is under way. Raises what broke the load itself."""
        self._stop_at = min(self._stop_at or float("inf"), time.monotonic() + patience_s)
        self._thread.join(patience_s + 10)
        if self._failure is not None:
            raise self._failure

    def ask_again(self) -> None:
        """A silent client wants to know what became of its requests."""
        self._asked.set()

    def _guard(self) -> None:
        try:
            while not self._over():
                self._converse()
        except BaseException as error:
            self._failure = error
        finally:
            self._hang_up()

    def _over(self) -> bool:
        return self._stop_at is not None and (not self.ledger.outstanding or time.monotonic() > self._stop_at)

    def _converse(self) -> None:
        """One connection, from its beginning to its end."""
        try:
            self._socket = socket.create_connection(self._addresses[0], 5.0)
            self._socket.settimeout(TURN_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reader = FrameReader()
            while not self._over():
                self._turn()
        except (OSError, ProtocolError):
            self.ledger.broke(time.monotonic())
            self._withheld = self._silent
            self._addresses.rotate(-1)
            self._hang_up()
            time.sleep(PAUSE_S)

    def _turn(self) -> None:
        assert self._socket is not None
        buffer = self._reader.get_buffer()
        try:
            count = self._socket.recv_into(buffer)
        except TimeoutError:
            count = -1
        if count == 0:
            raise ConnectionResetError("the gateway closed the connection")
        for frame in self._reader.buffer_updated(count) if count > 0 else ():
            self._received(frame)
        self._fill()

    def _received(self, frame: Frame) -> None:
        message, now = decode_to_client(frame.header), time.monotonic()
        if isinstance(message, ServerHello):
            self._write(encode_frame(ClientHello(1, "faults")))
            self._greeted = True
        elif isinstance(message, Accepted):
            self.ledger.accept(message.id, now)
        elif isinstance(message, Result):
            answer = np.frombuffer(frame.body, dtype=np.float32).reshape(message.outputs[0].shape)
            verdict = self._judge(message.id, answer)
            problem = "" if verdict.right else f"stolen from {verdict.owner}" if verdict.stolen else "false numbers"
            self.ledger.answer(message.id, now, attempts=message.attempts, wrong=problem)
            heapq.heappush(self._free, now)
        elif isinstance(message, Error):
            if not message.id:
                raise ConnectionResetError(message.message)
            self._ended(message, now)
            heapq.heappush(self._free, now + PAUSE_S)

    def _ended(self, error: Error, now: float) -> None:
        retryable = from_wire(error.code, error.message).retryable
        self.ledger.error(
            error.id, now, error.code, error.message, retryable=retryable, retry_after_ms=error.retry_after_ms
        )

    def _send_again(self) -> None:
        for number in self.ledger.unsettled():
            self._send(number)

    def _fill(self) -> None:
        """Use every free place, unless it is time to stop."""
        if not self._greeted:
            return
        if not self._resent and (not self._withheld or self._asked.is_set()):
            self._resent = True
            self._send_again()
        now = time.monotonic()
        while self._stop_at is None and not self._withheld and self._free and self._free[0] <= now:
            heapq.heappop(self._free)
            number, self._next = self._next, self._next + 1
            self.ledger.send(number, now)
            self._send(number)
        if now >= self._pinged + PING_S:
            self._pinged = now
            self._write(encode_frame(Ping()))

    def _send(self, number: int) -> None:
        left_s = self._deadline_s - (time.monotonic() - self.ledger.requests[number].sent)
        infer = Infer(
            id=number,
            model=NAME,
            inputs=(TensorSpec("x", "float32", (1, WIDTH)),),
            deadline_ms=left_s * 1000,
            idempotency_key=f"{self._run_name}/{number}",
            want_accepted=True,
        )
        self._write(encode_frame(infer, [self._judge.question(number).tobytes()]))

    def _write(self, pieces: list[Buffer]) -> None:
        assert self._socket is not None
        self._socket.settimeout(5.0)
        self._socket.sendall(b"".join(pieces))
        self._socket.settimeout(TURN_S)

    def _hang_up(self) -> None:
        self._greeted = self._resent = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def wait_until(what: str, holds: Callable[[], object], timeout_s: float) -> str:
    """Empty once `holds` does; after the time, `what` was waited for in vain."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return f"{what}: not within {timeout_s:g} s"
        time.sleep(0.01)
    return ""
