"""One client's connection: handshake, frames in and out, a limit on how long it may be slow."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from stageline.data import Buffer
from stageline.errors import InvalidInputError, RejectedError, RemoteProtocolError, StagelineError
from stageline.framing import Frame, FrameReader
from stageline.protocol import (
    VERSIONS,
    Cancel,
    ClientHello,
    Describe,
    Error,
    Infer,
    Ping,
    Pong,
    ServerHello,
    ToClient,
    decode_to_server,
    encode_frame,
    split_body,
)

MAX_CONNECTIONS = 1024
MAX_HANDSHAKES = 64
HANDSHAKE_S = 5.0
STALLED_S = 30.0
"""A client that reads nothing for so long while answers wait for it is disconnected."""
WRITE_HIGH_BYTES = 4 << 20
JOIN_BELOW_BYTES = 64 << 10


class Handler(Protocol):
    """Who acts on what clients say. `client` numbers connections and is never used again."""

    def infer(self, client: int, message: Infer, buffers: Sequence[Buffer]) -> None:
        """A request came."""

    def cancel(self, client: int, request_id: int) -> None:
        """The client gives up a request."""

    def describe(self, client: int, message: Describe) -> None:
        """The client asks for models."""

    def gone(self, client: int) -> None:
        """The connection is closed."""


@dataclass
class Port:
    """What the connections of a port share; `connections` by number, `handshakes` counts the unfinished ones."""

    loop: asyncio.AbstractEventLoop
    hello: ServerHello
    handler: Handler
    connections: dict[int, ClientConnection] = field(default_factory=dict)
    handshakes: int = 0
    last: int = 0

    def number(self, connection: ClientConnection) -> int:
        """A new connection's number."""
        self.last += 1
        self.connections[self.last] = connection
        return self.last


class ClientConnection(asyncio.BufferedProtocol):
    """One client."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._reader = FrameReader(max_body=port.hello.limits.max_request_bytes)
        self._transport: asyncio.Transport
        self._number = 0
        self._greeted = False
        self._user = ""
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] = port.loop.create_future()
        self._actions: dict[type, Callable[[Any, Frame], None]] = {
            ClientHello: self._hello,
            Infer: self._infer,
            Cancel: lambda message, frame: port.handler.cancel(self._number, message.id),
            Describe: lambda message, frame: port.handler.describe(self._number, message),
            Ping: lambda message, frame: self.send(Pong(message.sequence)),
        }

    # --- asyncio --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Speak first, and give the client a limited time to answer."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport is needed")
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        _keep_alive(transport)
        self._number = self._port.number(self)
        self._port.handshakes += 1
        if len(self._port.connections) > MAX_CONNECTIONS or self._port.handshakes > MAX_HANDSHAKES:
            self.refuse(RejectedError("too many connections: try again later", retry_after_s=1.0))
            return
        self.send(self._port.hello)
        self._timer = self._port.loop.call_later(HANDSHAKE_S, self._too_slow)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where the next bytes go."""
        return self._reader.get_buffer()  # type: ignore[return-value]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        if self._closing:
            return
        try:
            for frame in self._reader.buffer_updated(nbytes):
                if not self._closing:
                    self._frame(frame)
        except RemoteProtocolError as error:
            self.refuse(error)

    def eof_received(self) -> bool:
        """The client sends no more; it may still read, but nobody is known to want that."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._stop_timer()
        if not self._greeted:
            self._port.handshakes -= 1
        self._port.connections.pop(self._number, None)
        if not self.closed.done():
            self.closed.set_result(None)
        self._port.handler.gone(self._number)

    def pause_writing(self) -> None:
        """The client reads too slowly: take nothing more from it until it has caught up."""
        if not self._closing:
            self._transport.pause_reading()
        self._watch_progress(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_timer()
        if not self._closing:
            self._transport.resume_reading()

    # --- frames ---------------------------------------------------------------------------------------------

    def send(self, message: ToClient, buffers: Sequence[Buffer] = ()) -> None:
        """Write a frame."""
        if self._transport.is_closing():
            return
        pieces = encode_frame(message, buffers)
        if sum(memoryview(piece).nbytes for piece in pieces) < JOIN_BELOW_BYTES:
            self._transport.write(b"".join(pieces))
            return
        for piece in pieces:
            self._transport.write(piece)

    def refuse(self, error: StagelineError) -> None:
        """Say why, and close."""
        if not self._closing:
            self.send(error_message(0, error))
            self.close()

    def close(self) -> None:
        """Close once everything is written."""
        self._closing = True
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    def _frame(self, frame: Frame) -> None:
        message = decode_to_server(frame.header)
        if isinstance(message, ClientHello) == self._greeted:
            raise RemoteProtocolError("the first frame, and only the first, must be ClientHello")
        if len(frame.body) and not isinstance(message, Infer):
            raise RemoteProtocolError(f"{type(message).__name__} has no body, got {len(frame.body)} bytes")
        self._actions[type(message)](message, frame)

    def _hello(self, message: ClientHello, frame: Frame) -> None:
        if message.version not in VERSIONS:
            known = ", ".join(map(str, VERSIONS))
            raise RemoteProtocolError(f"protocol version {message.version} is not spoken here; use one of {known}")
        self._greeted = True
        self._user = message.user
        self._port.handshakes -= 1
        self._stop_timer()

    def _infer(self, message: Infer, frame: Frame) -> None:
        try:
            buffers = split_body(message.inputs, frame.body)
        except InvalidInputError as error:
            self.send(error_message(message.id, error))
            return
        if self._user and not message.user:
            message = msgspec.structs.replace(message, user=self._user)
        self._port.handler.infer(self._number, message, buffers)

    def _watch_progress(self, left: int) -> None:
        self._stop_timer()
        self._timer = self._port.loop.call_later(STALLED_S, self._stalled, left)

    def _stalled(self, before: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left >= before:
            self.abort()
        else:
            self._watch_progress(left)

    def _too_slow(self) -> None:
        self.refuse(RemoteProtocolError(f"no ClientHello within {HANDSHAKE_S:g} s"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def error_message(request_id: int, error: StagelineError) -> Error:
    """The error as it goes over the wire."""
    retry = None if error.retry_after_s is None else error.retry_after_s * 1000
    return Error(request_id, error.code, error.message[:4096], retry_after_ms=retry, node=error.node)


def _keep_alive(transport: asyncio.Transport) -> None:
    """Have the kernel find out about peers that vanished without a word; answers leave at once."""
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
