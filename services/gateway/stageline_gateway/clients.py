"""The native TCP port: listens, and finds a client's connection. What requests mean is the engine's business."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stageline.data import Buffer
from stageline.errors import AuthenticationError, StagelineError
from stageline.protocol import ServerHello, ToClient
from stageline.tls import SCHEME
from stageline_gateway.access import Access
from stageline_gateway.certificate import Certificate
from stageline_gateway.connection import HANDSHAKE_S, MAX_HANDSHAKES, ClientConnection
from stageline_gateway.listener import Listener, listen
from stageline_gateway.port import Handler, Port
from stageline_gateway.receiving import Budget


class ClientPort:
    """Listens; loop thread only. With `access` clients need a token, with `certificate` they are spoken to in TLS."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hello: ServerHello,
        handler: Handler,
        budget: Budget,
        stall_s: float,
        access: Access | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self._port = Port(loop, hello, handler, budget, stall_s, access)
        self._certificate = certificate
        self._listener: Listener | None = None

    async def listen(self, host: str, port: int) -> str:
        """Start listening; returns the address. Raises `ConfigError` when the port is taken."""
        self._listener = await listen(
            lambda: ClientConnection(self._port),
            host,
            port,
            self._certificate,
            lambda peer, why: self._port.handler.turned_away(peer, AuthenticationError(why)),
            MAX_HANDSHAKES,
            HANDSHAKE_S,
        )
        return self._listener.address

    @property
    def scheme(self) -> str:
        """What stands before the address where others are told it."""
        return SCHEME if self._certificate is not None else ""

    def look(self) -> None:
        """Take in what has changed about tokens and certificates; who lost a token is turned away."""
        if self._certificate is not None:
            self._certificate.look()
        if self._port.access is None or not self._port.access.look():
            return
        for connection in list(self._port.connections.values()):
            if connection.allowance is not None and connection.allowance.lost:
                connection.turn_away(AuthenticationError(connection.allowance.lost))

    def send(self, client: int, message: ToClient, buffers: Sequence[Buffer] = ()) -> None:
        """Send to a client; nothing happens if it is gone."""
        connection = self._port.connections.get(client)
        if connection is not None:
            connection.send(message, buffers)

    def disconnect(self, client: int, error: StagelineError) -> None:
        """Tell the client why, and close."""
        connection = self._port.connections.get(client)
        if connection is not None:
            connection.refuse(error)

    def stop_listening(self) -> None:
        """Take no new connections."""
        if self._listener is not None:
            self._listener.close()

    async def close(self, flush_s: float = 2.0) -> None:
        """Close every connection, after what was sent has left or `flush_s` seconds have passed."""
        self.stop_listening()
        open_now = list(self._port.connections.values())
        for connection in open_now:
            connection.close()
        if open_now:
            await asyncio.wait([connection.closed for connection in open_now], timeout=flush_s)
        for connection in open_now:
            connection.abort()
        if self._listener is not None:
            await self._listener.wait_closed()
