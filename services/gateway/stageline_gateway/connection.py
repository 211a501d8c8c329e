"""One client's connection: handshake, frames in and out, a limit on how long it may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from stageline.data import Buffer
from stageline.errors import InvalidInputError, RejectedError, RemoteProtocolError, StagelineError
from stageline.framing import Frame, FrameReader
from stageline.protocol import (
    VERSIONS,
    Cancel,
    ClientHello,
    Describe,
    Infer,
    Ping,
    Pong,
    ToClient,
    decode_to_server,
    encode_frame,
    id_asked,
    split_body,
)
from stageline_gateway.port import Port, error_message, keep_alive
from stageline_gateway.receiving import FREE_BYTES, Pace

MAX_CONNECTIONS = 1024
MAX_HANDSHAKES = 64
HANDSHAKE_S = 5.0
WRITE_HIGH_BYTES = 4 << 20
JOIN_BELOW_BYTES = 64 << 10


class ClientConnection(asyncio.BufferedProtocol):
    """One client."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._reader = FrameReader(max_body=port.hello.limits.max_request_bytes, reserve=self._reserve)
        self._transport: asyncio.Transport
        self._number = 0
        self._greeted = False
        self._user = ""
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._pace = Pace()
        self._pace_timer: asyncio.TimerHandle | None = None
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
        keep_alive(transport, self._port.stall_s)
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
        self._pace.received += nbytes
        self._take(lambda: self._reader.buffer_updated(nbytes))

    def eof_received(self) -> bool:
        """The client sends no more; it may still read, but nobody is known to want that."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._closing = True
        self._stop_timer()
        if self._pace_timer is not None:
            self._pace_timer.cancel()
        if not self._greeted:
            self._port.handshakes -= 1
        self._port.connections.pop(self._number, None)
        self._port.release(self._number)
        if not self.closed.done():
            self.closed.set_result(None)
        self._port.handler.gone(self._number)

    def pause_writing(self) -> None:
        """The client reads too slowly: take nothing more from it until it has caught up."""
        if not self._closing:
            self._transport.pause_reading()
            self._pace.paused = True
        self._watch_progress(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_timer()
        if not self._closing and not self._reader.blocked:
            self._transport.resume_reading()

    def granted(self) -> None:
        """There is room now for the body that the client wants to send."""
        self._take(self._reader.resume)
        if not self._closing and not self._reader.blocked and self._timer is None:
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
        """Close once everything is written, at most a while later."""
        self._closing = True
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._watch_progress(self._transport.get_write_buffer_size())

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    def _take(self, read: Callable[[], list[Frame]]) -> None:
        """Act on what can be read."""
        if self._closing:
            return
        try:
            for frame in read():
                self._pace.frames += 1
                if len(frame.body) > FREE_BYTES:
                    self._port.release(self._number)
                if not self._closing:
                    self._frame(frame)
        except RemoteProtocolError as error:
            self.refuse(error)
        if self._pace_timer is None and not self._reader.idle and not self._closing:
            self._watch_pace()

    def _reserve(self, nbytes: int) -> bool:
        if nbytes <= FREE_BYTES or self._port.budget.reserve(self._number, nbytes):
            return True
        self._transport.pause_reading()
        self._pace.paused = True
        return False

    def _frame(self, frame: Frame) -> None:
        try:
            message = decode_to_server(frame.header)
        except RemoteProtocolError as error:
            asked = id_asked(frame.header) if self._greeted else None
            if asked is None:
                raise
            self.send(error_message(asked, InvalidInputError(error.message)))  # the frame's end is known all the same
            return
        if isinstance(message, ClientHello) == self._greeted:
            raise RemoteProtocolError("the first frame, and only the first, must be ClientHello")
        body = len(frame.body) or frame.skipped
        if body and not isinstance(message, Infer):
            raise RemoteProtocolError(f"{type(message).__name__} has no body, got {body} bytes")
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
            self._check_size(frame.skipped)
            buffers = split_body(message.inputs, frame.body)
        except InvalidInputError as error:
            self.send(error_message(message.id, error))
            return
        if self._user and not message.user:
            message = msgspec.structs.replace(message, user=self._user)
        self._port.handler.infer(self._number, message, buffers)

    def _check_size(self, skipped: int) -> None:
        if skipped:
            limit = self._port.hello.limits.max_request_bytes
            raise InvalidInputError(
                f"the request has {skipped} bytes, this gateway takes {limit}: send a smaller batch"
            )

    def _watch_pace(self) -> None:
        self._pace = Pace(paused=not self._transport.is_reading())
        self._pace_timer = self._port.loop.call_later(self._port.stall_s, self._check_pace)

    def _check_pace(self) -> None:
        self._pace_timer = None
        if self._reader.idle or self._closing:
            return
        if self._pace.too_slow(self._port.stall_s):
            text = f"a frame was begun, but only {self._pace.received} bytes came in the last {self._port.stall_s:g} s"
            self.refuse(RemoteProtocolError(f"{text}: send frames without a pause"))
            return
        self._watch_pace()

    def _watch_progress(self, left: int) -> None:
        self._stop_timer()
        self._timer = self._port.loop.call_later(self._port.stall_s, self._stalled, left)

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
