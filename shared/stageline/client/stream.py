"""The blocking client's socket, plain or TLS: nothing waits once it is connected."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence

from stageline.client.core import parse_address
from stageline.client.security import Security
from stageline.errors import ConnectionLostError, StagelineError
from stageline.tls import distrust

_AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_BYTES_PER_TURN = 1 << 20
"""TLS takes and gives 16 KiB at a time; after so many it is time to look at other things."""
_RECORD_BYTES = 16 << 10


class Stream:
    """A connection to the gateway at `address`. Its methods raise what `broken` makes of an `OSError`."""

    def __init__(self, address: str, connected: socket.socket) -> None:
        self._address = address
        self.socket = connected
        self.tls = isinstance(connected, ssl.SSLSocket)
        self.reads = _BYTES_PER_TURN // _RECORD_BYTES if self.tls else 1
        """How often to read when the system says that something came."""

    def send(self, pieces: Sequence[memoryview]) -> int:
        """How many bytes of the pieces were taken. What was not is to be given again, unchanged."""
        try:
            return self._send(pieces)
        except OSError as error:
            raise broken(self._address, error) from None

    def receive(self, buffer: memoryview) -> int | None:
        """How many bytes came, 0 at the end, None if there are none yet."""
        try:
            return self.socket.recv_into(buffer)
        except _AGAIN:
            return None
        except OSError as error:
            raise broken(self._address, error) from None

    @property
    def pending(self) -> bool:
        """Whether bytes are here that the system will not report any more."""
        return isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0

    def _send(self, pieces: Sequence[memoryview]) -> int:
        if not isinstance(self.socket, ssl.SSLSocket):
            try:
                return self.socket.sendmsg(pieces)
            except BlockingIOError:
                return 0
        total = 0
        for piece in pieces:
            rest = piece
            while rest and total < _BYTES_PER_TURN:
                try:
                    sent = self.socket.send(rest)
                except _AGAIN:
                    return total
                rest, total = rest[sent:], total + sent
        return total


def connect(address: str, security: Security, timeout_s: float) -> Stream:
    """Raises `ConnectionLostError`, or `AuthenticationError` if the gateway does not prove who it is."""
    host, port = parse_address(address)
    context = security.context(address)
    until = time.monotonic() + timeout_s
    try:
        connection = socket.create_connection((host, port), timeout_s)
    except OSError as error:
        reason = error.strerror or "timed out"
        raise ConnectionLostError(f"cannot reach a gateway at {address} ({reason}): is it running?") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        try:
            connection.settimeout(max(0.001, until - time.monotonic()))
            connection = context.wrap_socket(connection, server_hostname=security.server_name(address))
        except OSError as error:
            connection.close()
            raise unshaken(address, error) from None
    connection.setblocking(False)
    return Stream(address, connection)


def unshaken(address: str, error: OSError) -> StagelineError:
    """What a client ends with whose TLS handshake failed."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return distrust(address, error)
    return ConnectionLostError(f"{address} did not finish the TLS handshake: does that gateway speak TLS?")


def ungreeted(address: str, timeout_s: float) -> ConnectionLostError:
    """What a client ends with that nobody greets."""
    said = f"the gateway at {address} did not greet within {timeout_s:g} s"
    return ConnectionLostError(f"{said}: is it overloaded or frozen? Restart it, or give the address of another")


def broken(address: str, error: OSError) -> StagelineError:
    """What a client ends with whose connection broke."""
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return distrust(address, error)
    return ConnectionLostError(f"the connection to {address} broke: {error.strerror}")


def closed(address: str, *, unmet: bool) -> ConnectionLostError:
    """What a client ends with whose connection was closed; `unmet`: after a TLS handshake, before the greeting.

    In TLS 1.3 a client's own part of the handshake is over before the gateway has looked at its certificate.
    """
    hint = " before it greeted: does it ask for a certificate of clients, and trust the one it gets (--cert-file, Tls)?"
    return ConnectionLostError(f"the gateway at {address} closed the connection{hint if unmet else ''}")
