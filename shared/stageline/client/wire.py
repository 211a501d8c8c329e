"""One connection of the asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence

from stageline.client.core import Broken, ClientCore, Finished, Greeted, parse_address
from stageline.client.security import Security
from stageline.client.stream import broken, closed, ungreeted, unshaken
from stageline.data import Buffer
from stageline.errors import ConnectionLostError, StagelineError
from stageline.protocol import ServerHello

MISSED_PINGS = 3


class Wire(asyncio.BufferedProtocol):
    """`on_finished` gets the answers, `on_lost` why the connection ended: once, and only after it has greeted.

    `lost` is that reason, `writable` is clear while more waits to be written than the kernel takes.
    """

    def __init__(
        self,
        address: str,
        core: ClientCore,
        on_finished: Callable[[Sequence[Finished]], None],
        on_lost: Callable[[Wire, StagelineError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._core = core
        self._on_finished = on_finished
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._tls = False
        self.lost: StagelineError | None = None
        self._spoke = self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.greeted: asyncio.Future[ServerHello] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()

    def write(self, pieces: Sequence[Buffer]) -> None:
        """Have the pieces sent."""
        if self.lost is not None or not pieces:
            return
        self._spoke = self._loop.time()
        for piece in pieces:
            self._transport.write(piece)

    async def close(self) -> None:
        """Close, after what was written has left or two seconds have passed."""
        self._end(ConnectionLostError("the client was closed"))
        self._transport.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._closed), 2.0)
        self._transport.abort()

    # --- asyncio --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            self._tls = transport.get_extra_info("ssl_object") is not None

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where the next bytes go."""
        return self._core.reader.get_buffer()  # type: ignore[return-value]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._heard = self._loop.time()
        finished: list[Finished] = []
        try:
            for event in self._core.received(self._core.reader.buffer_updated(nbytes)):
                if isinstance(event, Greeted):
                    self._greet(event)
                elif isinstance(event, Broken):
                    raise event.error
                else:
                    finished.append(event)
        except StagelineError as error:
            self._on_finished(finished)
            self._end(error)
            self._transport.abort()
            return
        if finished:
            self._on_finished(finished)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        if isinstance(exc, ssl.SSLError):
            self._end(broken(self._address, exc))
        self._end(closed(self._address, unmet=self._tls and not self.greeted.done()))
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """More is waiting than the kernel takes."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.writable.set()

    # --- own ------------------------------------------------------------------------------------------------

    def _greet(self, event: Greeted) -> None:
        self.write(self._core.greeting())
        if not self.greeted.done():
            self.greeted.set_result(event.hello)
        if event.hello.keepalive_s:
            self._keep_alive(event.hello.keepalive_s)

    def _keep_alive(self, interval: float) -> None:
        now = self._loop.time()
        if now - self._heard >= MISSED_PINGS * interval:
            self._end(ConnectionLostError(f"{self._address} has said nothing for {now - self._heard:.0f} s"))
            self._transport.abort()
            return
        if now - self._spoke >= interval:
            self.write(self._core.ping())
        self._timer = self._loop.call_later(max(0.0, self._spoke + interval - now), self._keep_alive, interval)

    def _end(self, error: StagelineError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        if self._timer is not None:
            self._timer.cancel()
        self.writable.set()
        if self.greeted.done():
            self._on_lost(self, error)
        else:
            self.greeted.set_exception(error)


async def open_wire(
    address: str,
    core: ClientCore,
    security: Security,
    on_finished: Callable[[Sequence[Finished]], None],
    on_lost: Callable[[Wire, StagelineError], None],
    timeout_s: float,
) -> tuple[Wire, ServerHello]:
    """Connect and greet. Raises as `connect` does, or what the server refuses the connection with."""
    loop = asyncio.get_running_loop()
    host, port = parse_address(address)
    context = security.context(address)
    name = None if context is None else security.server_name(address)
    begun = loop.time()
    try:
        made = loop.create_connection(
            lambda: Wire(address, core, on_finished, on_lost), host, port, ssl=context, server_hostname=name
        )
        _, wire = await asyncio.wait_for(made, timeout_s)
    except asyncio.TimeoutError:
        raise ConnectionLostError(f"cannot reach a gateway at {address} (timed out)") from None
    except ssl.SSLError as error:
        raise unshaken(address, error) from None
    except OSError as error:
        reason = error.strerror or "refused"
        raise ConnectionLostError(f"cannot reach a gateway at {address} ({reason}): is it running?") from None
    try:
        return wire, await asyncio.wait_for(asyncio.shield(wire.greeted), begun + timeout_s - loop.time())
    except asyncio.TimeoutError:
        await wire.close()
        wire.greeted.exception()
        raise ungreeted(address, timeout_s) from None
    except BaseException:
        await wire.close()
        raise
