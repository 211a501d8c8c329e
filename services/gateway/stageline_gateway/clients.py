"""The native TCP port: listens, and finds a client's connection. What requests mean is the engine's business."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stageline.data import Buffer
from stageline.errors import ConfigError, StagelineError
from stageline.protocol import ServerHello, ToClient
from stageline_gateway.connection import ClientConnection
from stageline_gateway.port import Handler, Port
from stageline_gateway.receiving import Budget


class ClientPort:
    """Listens; loop thread only."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, hello: ServerHello, handler: Handler, budget: Budget, stall_s: float
    ) -> None:
        self._port = Port(loop, hello, handler, budget, stall_s)
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> str:
        """Start listening; returns the address. Raises `ConfigError` when the port is taken."""
        try:
            self._server = await self._port.loop.create_server(
                lambda: ClientConnection(self._port), host, port, backlog=256
            )
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from None
        name = self._server.sockets[0].getsockname()
        return f"{name[0]}:{name[1]}"

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
        if self._server is not None:
            self._server.close()

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
        if self._server is not None:
            await self._server.wait_closed()
