"""What the connections of a client port share, and the few things that need no connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stageline.addresses import place_of
from stageline.data import Buffer
from stageline.errors import StagelineError
from stageline.protocol import Describe, Error, Infer, ServerHello, ToClient
from stageline_gateway.access import Access
from stageline_gateway.allowance import Allowance
from stageline_gateway.receiving import Budget


class Connection(Protocol):
    """What is done with a connection. `closed` is done when it is; `allowance` is its token's, if it needs one."""

    closed: asyncio.Future[None]

    @property
    def allowance(self) -> Allowance | None:
        """As above."""

    def send(self, message: ToClient, buffers: Sequence[Buffer] = ()) -> None:
        """Write a frame."""

    def refuse(self, error: StagelineError) -> None:
        """Say why, and close."""

    def turn_away(self, error: StagelineError) -> None:
        """Say why the client may not be here, and close."""

    def close(self) -> None:
        """Close once everything is written."""

    def abort(self) -> None:
        """Close at once."""

    def granted(self) -> None:
        """There is room for the body that it waits to receive."""


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

    def turned_away(self, peer: str, error: StagelineError) -> None:
        """A client is not let in, or no longer."""

    def limited(self, token: str) -> None:
        """A request went beyond what its token allows."""


@dataclass
class Port:
    """What the connections of a port share; `connections` by number, `handshakes` counts the unfinished ones.

    A client that is `stall_s` seconds in the middle of a frame, or reads nothing while answers wait for it, is
    disconnected. Without `access` nobody needs a token.
    """

    loop: asyncio.AbstractEventLoop
    hello: ServerHello
    handler: Handler
    budget: Budget
    stall_s: float
    access: Access | None = None
    connections: dict[int, Connection] = field(default_factory=dict)
    handshakes: int = 0
    last: int = 0

    def release(self, number: int) -> None:
        """A connection has received a body, or is gone: let those go on that waited for its room."""
        for granted in self.budget.release(number):
            connection = self.connections.get(granted)
            if connection is not None:
                self.loop.call_soon(connection.granted)

    def number(self, connection: Connection) -> int:
        """A new connection's number."""
        self.last += 1
        self.connections[self.last] = connection
        return self.last


def error_message(request_id: int, error: StagelineError) -> Error:
    """The error as it goes over the wire."""
    retry = None if error.retry_after_s is None else error.retry_after_s * 1000
    return Error(request_id, error.code, error.message[:4096], retry_after_ms=retry, node=error.node)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address of who is at the other end."""
    name = transport.get_extra_info("peername")
    return place_of(name) if name else "unknown"


def keep_alive(transport: asyncio.Transport, stall_s: float) -> None:
    """Have the kernel find out about peers that vanished without a word; answers leave at once."""
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    unheard_ms = max(1, int(stall_s * 1000))
    for name, value in (
        ("TCP_KEEPIDLE", 30),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", unheard_ms),
    ):
        if hasattr(socket, name):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
