"""One connection of the blocking client: a socket, what waits to be written, and signs of life. One thread's."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Sequence

from stageline.client.core import Broken, ClientCore, ClientEvent, Finished, Greeted, parse_address
from stageline.data import Buffer
from stageline.errors import ConnectionLostError

_PIECES_PER_WRITE = 64
MISSED_PINGS = 3


class Channel:
    """Connects on creation. Every method raises `ConnectionLostError` when the connection breaks.

    `write` may be called by another thread, one at a time; all else belongs to the one that reads.
    """

    def __init__(self, address: str, core: ClientCore, timeout_s: float) -> None:
        self._address = address
        self._core = core
        self._outgoing: deque[memoryview] = deque()
        self.socket = _connect(address, timeout_s)
        self._spoke = self._heard = time.monotonic()
        self._greet_by = self._heard + timeout_s
        self._timeout_s = timeout_s

    @property
    def greeted(self) -> bool:
        """Whether requests may be written."""
        return self._core.hello is not None

    @property
    def has_more(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._outgoing)

    def write(self, pieces: Sequence[Buffer]) -> None:
        """Have the pieces sent; they must not change."""
        self._outgoing.extend(memoryview(piece) for piece in pieces if len(piece))

    def close(self) -> None:
        """Close at once."""
        self.socket.close()

    def flush(self) -> None:
        """Send what the kernel takes."""
        pieces = [self._outgoing[i] for i in range(min(_PIECES_PER_WRITE, len(self._outgoing)))]
        if not pieces:
            return
        try:
            sent = self.socket.sendmsg(pieces)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._broke(error) from None
        self._spoke = time.monotonic()
        while sent:
            size = len(self._outgoing[0])
            if sent < size:
                self._outgoing[0] = self._outgoing[0][sent:]
                return
            self._outgoing.popleft()
            sent -= size

    def receive(self) -> list[Finished]:
        """Read once; which calls were answered. Raises also what the server ends the connection with."""
        try:
            count = self.socket.recv_into(self._core.reader.get_buffer())
        except BlockingIOError:
            return []
        except OSError as error:
            raise self._broke(error) from None
        if not count:
            raise ConnectionLostError(f"the gateway at {self._address} closed the connection")
        self._heard = time.monotonic()
        return self._act(self._core.received(self._core.reader.buffer_updated(count)))

    def keep_alive(self, now: float) -> float | None:
        """Ping if it is due; seconds until it is due again, None for never."""
        if self._core.hello is None:
            if now >= self._greet_by:
                raise ConnectionLostError(f"{self._address} did not greet within {self._timeout_s:g} s")
            return self._greet_by - now
        interval = self._core.hello.keepalive_s
        if not interval:
            return None
        if now - self._spoke >= interval:
            if now - self._heard >= MISSED_PINGS * interval:
                raise ConnectionLostError(f"{self._address} has said nothing for {now - self._heard:.0f} s")
            self.write(self._core.ping())
            self._spoke = now
        return max(0.0, self._spoke + interval - now)

    def _act(self, events: Sequence[ClientEvent]) -> list[Finished]:
        finished: list[Finished] = []
        for event in events:
            if isinstance(event, Greeted):
                self.write(self._core.greeting())
            elif isinstance(event, Broken):
                raise event.error
            else:
                finished.append(event)
        return finished

    def _broke(self, error: OSError) -> ConnectionLostError:
        return ConnectionLostError(f"the connection to {self._address} broke: {error.strerror}")


def _connect(address: str, timeout_s: float) -> socket.socket:
    host, port = parse_address(address)
    try:
        connection = socket.create_connection((host, port), timeout_s)
    except OSError as error:
        reason = error.strerror or "timed out"
        raise ConnectionLostError(f"cannot reach a gateway at {address} ({reason}): is it running?") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return connection
