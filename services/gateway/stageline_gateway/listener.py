"""Sockets that listen for clients, with TLS or without; what is unfinished is limited in both cases."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from stageline.addresses import place_of
from stageline.errors import ConfigError
from stageline.tls import reason_of
from stageline_gateway.certificate import Certificate

BACKLOG = 256
PAUSE_S = 0.2
"""How long nothing is accepted after the system refused to, for want of descriptors say."""


class Listener(Protocol):
    """Listens until `close`."""

    address: str

    def close(self) -> None:
        """Take no new connections."""

    async def wait_closed(self) -> None:
        """After `close`: until nothing is under way any more."""


class PlainListener:
    """Plain TCP, by asyncio's own server."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.address = place_of(server.sockets[0].getsockname())

    def close(self) -> None:
        """Take no new connections."""
        self._server.close()

    async def wait_closed(self) -> None:
        """After `close`: until nothing is under way any more."""
        await self._server.wait_closed()


class TlsListener:
    """TLS. At most `most` handshakes are under way, each for `patience_s` seconds; others are closed at once.

    asyncio's server would tell nobody of a handshake before it is over, so that they could not be counted.
    """

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[[], asyncio.BufferedProtocol],
        certificate: Certificate,
        failed: Callable[[str, str], None],
        most: int,
        patience_s: float,
    ) -> None:
        self._socket = listening
        self._make = make
        self._certificate = certificate
        self._failed = failed
        self._most = most
        self._patience_s = patience_s
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept())
        self.address = place_of(listening.getsockname())

    def close(self) -> None:
        """Take no new connections."""
        for task in (self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """After `close`: until nothing is under way any more."""
        await asyncio.gather(self._accepting, *self._handshakes, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, peer = await loop.sock_accept(self._socket)
                except OSError:
                    await asyncio.sleep(PAUSE_S)
                    continue
                if len(self._handshakes) >= self._most:
                    connection.close()
                    continue
                self._begin(connection, place_of(peer))
        finally:
            self._socket.close()

    def _begin(self, connection: socket.socket, peer: str) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._handshakes.discard(task)
            if task.cancelled():
                connection.close()

        task = asyncio.get_running_loop().create_task(self._shake(connection, peer))
        self._handshakes.add(task)
        task.add_done_callback(ended)

    async def _shake(self, connection: socket.socket, peer: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make, connection, ssl=self._certificate.context, ssl_handshake_timeout=self._patience_s
            )
        except ssl.SSLError as error:
            self._failed(peer, reason_of(error))
        except OSError:
            self._failed(peer, "it did not finish the TLS handshake")


async def listen(
    make: Callable[[], asyncio.BufferedProtocol],
    host: str,
    port: int,
    certificate: Certificate | None,
    failed: Callable[[str, str], None],
    most: int,
    patience_s: float,
) -> Listener:
    """Listen for clients; `failed` hears of peers whose TLS handshake failed, and why.

    Raises `ConfigError` when the port is taken.
    """
    loop = asyncio.get_running_loop()
    try:
        if certificate is None:
            return PlainListener(await loop.create_server(make, host, port, backlog=BACKLOG))
        listening = socket.create_server((host, port), family=_family(host), backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from None
    listening.setblocking(False)
    return TlsListener(listening, make, certificate, failed, most, patience_s)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
