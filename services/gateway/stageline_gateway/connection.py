"""One client's connection: handshake, frames in and out, a limit on how long it may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from stageline.data import Buffer
from stageline.errors import AuthenticationError, RejectedError, RemoteProtocolError, StagelineError
from stageline.framing import Frame, FrameReader
from stageline.protocol import ToClient, encode_frame
from stageline_gateway.allowance import Allowance
from stageline_gateway.conversation import HELLO_FIRST, Conversation
from stageline_gateway.port import Port, error_message, keep_alive, peer_of
from stageline_gateway.receiving import FREE_BYTES, Pace

MAX_CONNECTIONS = 1024
MAX_HANDSHAKES = 64
HANDSHAKE_S = 5.0
LINGER_S = 1.0
"""A client that is turned away may be sending: its connection is read for so long, or the reason would not reach it."""
WRITE_HIGH_BYTES = 4 << 20
JOIN_BELOW_BYTES = 64 << 10


class ClientConnection(asyncio.BufferedProtocol):
    """One client."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._reader = FrameReader(max_body=port.hello.limits.max_request_bytes, reserve=self._reserve)
        self._transport: asyncio.Transport
        self._number = 0
        self._conversation: Conversation
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._pace = Pace()
        self._pace_timer: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] = port.loop.create_future()

    @property
    def allowance(self) -> Allowance | None:
        """The token's, if this port asks for one and the client has given it."""
        charges = self._conversation.charges
        return charges.allowance if charges is not None else None

    # --- asyncio --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Speak first, and give the client a limited time to answer."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport is needed")
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        keep_alive(transport, self._port.stall_s)
        self._number = self._port.number(self)
        self._conversation = Conversation(self._port, self._number, self.send, self._greeted)
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
        for timer in (self._pace_timer, self._linger):
            if timer is not None:
                timer.cancel()
        if self._conversation.charges is not None:
            self._conversation.charges.end()
        if not self._conversation.greeted:
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
        if self._closing or self._transport.is_closing():
            return
        if self._conversation.charges is not None:
            self._conversation.charges.sent(message)
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

    def turn_away(self, error: StagelineError) -> None:
        """Say why the client may not be here, listen to nothing more, and close a little later."""
        if self._closing:
            return
        self._port.handler.turned_away(peer_of(self._transport), error)
        self.send(error_message(0, error))
        self._closing = True
        self._stop_timer()
        self._port.release(self._number)
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._linger = self._port.loop.call_later(LINGER_S, self.close)

    def close(self) -> None:
        """Close once everything is written, at most a while later."""
        self._closing = True
        if self._transport.is_closing():
            return
        left = self._transport.get_write_buffer_size()
        self._transport.close()
        if left:
            self._watch_progress(left)
        else:  # TLS waits for the other end to agree
            self._linger = self._port.loop.call_later(LINGER_S, self.abort)

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
                    self._conversation.take(frame)
        except AuthenticationError as error:
            self.turn_away(error)
        except RemoteProtocolError as error:
            self.refuse(error)
        if self._pace_timer is None and not self._reader.idle and not self._closing:
            self._watch_pace()

    def _reserve(self, nbytes: int) -> bool:
        if not self._reader.frames:  # from somebody yet unknown
            raise RemoteProtocolError(HELLO_FIRST)
        if nbytes <= FREE_BYTES or self._port.budget.reserve(self._number, nbytes):
            return True
        self._transport.pause_reading()
        self._pace.paused = True
        return False

    def _greeted(self) -> None:
        self._port.handshakes -= 1
        self._stop_timer()

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
