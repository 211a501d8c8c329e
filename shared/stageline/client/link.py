"""The blocking client's I/O thread: one socket, what waits to be written, who waits for an answer."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from stageline.client.core import Broken, ClientCore, Finished, Greeted, parse_address
from stageline.data import Buffer
from stageline.errors import ConnectionLostError, StagelineError
from stageline.protocol import ServerHello

_PIECES_PER_WRITE = 64
_RECEIVE_BUFFER = 1 << 20
MISSED_PINGS = 3


class Link:
    """Connects on creation. `ask` may be called from any thread."""

    def __init__(self, address: str, core: ClientCore, connect_timeout_s: float) -> None:
        self._address = address
        self._core = core
        self._lock = threading.Lock()
        self._outgoing: deque[memoryview] = deque()
        self._futures: dict[int, Future[Any]] = {}
        self._lost: StagelineError | None = None
        self._closing = False
        self._socket = _connect(address, connect_timeout_s)
        self._wake_in, self._wake_out = socket.socketpair()
        self._greeted = threading.Event()
        self._spoke = self._heard = time.monotonic()
        for end in (self._socket, self._wake_in, self._wake_out):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="stageline-client", daemon=True)
        self._thread.start()
        if not self._greeted.wait(connect_timeout_s) or self._lost is not None:
            self.close()
            raise self._lost or ConnectionLostError(f"{address} did not greet within {connect_timeout_s:g} s")

    @property
    def hello(self) -> ServerHello:
        """What the gateway said first."""
        if self._core.hello is None:
            raise ConnectionLostError(f"{self._address} has not greeted")
        return self._core.hello

    def ask(self, build: Callable[[], tuple[int, list[Buffer]]], *, copy: bool = False) -> Future[Any]:
        """Send what `build` makes; the future gets the answer. Raises what `build` raises, or `ConnectionLostError`.

        Without `copy` the buffers must not change until the answer is there.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._lost is not None or self._closing:
                raise self._lost_error()
            number, pieces = build()
            self._futures[number] = future
            self._outgoing.extend(memoryview(bytes(piece) if copy else piece) for piece in pieces if len(piece))
        future.add_done_callback(lambda done: self._cancel(number) if done.cancelled() else None)
        self._wake()
        return future

    def close(self) -> None:
        """Close and fail what is not answered."""
        self._closing = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _cancel(self, number: int) -> None:
        with self._lock:
            if self._futures.pop(number, None) is None or self._lost is not None:
                return
            self._outgoing.extend(memoryview(piece) for piece in self._core.cancel(number))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake anyhow; closed: it has ended
            self._wake_in.send(b"\0")

    def _lost_error(self) -> StagelineError:
        if isinstance(self._lost, ConnectionLostError) or self._lost is None:
            return ConnectionLostError(str(self._lost or "the client was closed"))
        return self._lost

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, selectors.EVENT_READ)
                selector.register(self._wake_out, selectors.EVENT_READ)
                while not self._closing:
                    self._turn(selector)
            self._end(ConnectionLostError("the client was closed"))
        except StagelineError as error:
            self._end(error)
        except OSError as error:
            self._end(ConnectionLostError(f"the connection to {self._address} broke: {error.strerror}"))
        finally:
            for end in (self._socket, self._wake_in, self._wake_out):
                end.close()

    def _turn(self, selector: selectors.BaseSelector) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        selector.modify(self._socket, wanted)
        for key, mask in selector.select(self._keep_alive()):
            if key.fileobj is self._wake_out:
                with contextlib.suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            else:
                if mask & selectors.EVENT_READ:
                    self._receive()
                if mask & selectors.EVENT_WRITE:
                    self._write()

    def _keep_alive(self) -> float | None:
        """Seconds until a ping is due; sends it when it is."""
        interval = self._core.hello.keepalive_s if self._core.hello else 0.0
        if not interval:
            return None
        now = time.monotonic()
        if now - self._spoke >= interval:
            if now - self._heard >= MISSED_PINGS * interval:
                raise ConnectionLostError(f"{self._address} has said nothing for {now - self._heard:.0f} s")
            self._queue(self._core.ping())
            self._spoke = now
        return max(0.0, self._spoke + interval - now)

    def _queue(self, pieces: list[Buffer]) -> None:
        with self._lock:
            self._outgoing.extend(memoryview(piece) for piece in pieces)
        self._wake()

    def _write(self) -> None:
        with self._lock:
            pieces = [self._outgoing[i] for i in range(min(_PIECES_PER_WRITE, len(self._outgoing)))]
        if not pieces:
            return
        try:
            sent = self._socket.sendmsg(pieces)
        except BlockingIOError:
            return
        self._spoke = time.monotonic()
        with self._lock:
            while sent:
                size = len(self._outgoing[0])
                if sent < size:
                    self._outgoing[0] = self._outgoing[0][sent:]
                    return
                self._outgoing.popleft()
                sent -= size

    def _receive(self) -> None:
        try:
            count = self._socket.recv_into(self._core.reader.get_buffer())
        except BlockingIOError:
            return
        if not count:
            raise ConnectionLostError(f"the gateway at {self._address} closed the connection")
        self._heard = time.monotonic()
        for event in self._core.received(self._core.reader.buffer_updated(count)):
            if isinstance(event, Greeted):
                self._queue(self._core.greeting())
                self._greeted.set()
            elif isinstance(event, Broken):
                raise event.error
            else:
                self._finish(event)

    def _finish(self, event: Finished) -> None:
        with self._lock:
            future = self._futures.pop(event.id, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if isinstance(event.value, StagelineError):
            future.set_exception(event.value)
        else:
            future.set_result(event.value)

    def _end(self, error: StagelineError) -> None:
        with self._lock:
            self._lost = error
            waiting = list(self._futures.values())
            self._futures.clear()
            self._outgoing.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(self._lost_error())
        self._greeted.set()


def _connect(address: str, timeout_s: float) -> socket.socket:
    host, port = parse_address(address)
    try:
        connection = socket.create_connection((host, port), timeout_s)
    except OSError as error:
        reason = error.strerror or "timed out"
        raise ConnectionLostError(f"cannot reach a gateway at {address} ({reason}): is it running?") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
