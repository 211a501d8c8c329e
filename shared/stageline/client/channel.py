"""One connection of the blocking client: a socket, what waits to be written, and signs of life. One thread's."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from stageline.client.core import Broken, ClientCore, ClientEvent, Finished, Greeted
from stageline.client.security import Security
from stageline.client.stream import closed, connect, ungreeted
from stageline.data import Buffer
from stageline.errors import ConnectionLostError, StagelineError

_PIECES_PER_WRITE = 64
MISSED_PINGS = 3


class Channel:
    """Connects on creation. Every method raises `ConnectionLostError` when the connection breaks.

    `write` may be called by another thread, one at a time; all else belongs to the one that reads.
    """

    def __init__(self, address: str, core: ClientCore, security: Security, timeout_s: float) -> None:
        self._address = address
        self._core = core
        self._outgoing: deque[memoryview] = deque()
        begun = time.monotonic()
        self._stream = connect(address, security, timeout_s)
        self.socket = self._stream.socket
        self._spoke = self._heard = time.monotonic()
        self._greet_by = begun + timeout_s
        self._timeout_s = timeout_s
        self._failed: StagelineError | None = None

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
        sent = self._stream.send(pieces)
        if sent:
            self._spoke = time.monotonic()
        while sent:
            size = len(self._outgoing[0])
            if sent < size:
                self._outgoing[0] = self._outgoing[0][sent:]
                return
            self._outgoing.popleft()
            sent -= size

    def receive(self) -> list[Finished]:
        """Read what is there; which calls were answered. Raises, now or next time, what the connection ends with."""
        finished: list[Finished] = []
        try:
            for _ in range(self._stream.reads):
                if not self._read(finished):
                    break
            while self._stream.pending:
                self._read(finished)
        except StagelineError as error:
            if not finished:
                raise
            self._failed = error
        return finished

    def _read(self, finished: list[Finished]) -> bool:
        """Whether something came."""
        count = self._stream.receive(self._core.reader.get_buffer())
        if count is None:
            return False
        if not count:
            raise closed(self._address, unmet=self._stream.tls and not self.greeted)
        self._heard = time.monotonic()
        self._act(self._core.received(self._core.reader.buffer_updated(count)), finished)
        return True

    def keep_alive(self, now: float) -> float | None:
        """Ping if it is due; seconds until it is due again, None for never."""
        if self._failed is not None:
            raise self._failed
        if self._core.hello is None:
            if now >= self._greet_by:
                raise ungreeted(self._address, self._timeout_s)
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

    def _act(self, events: Sequence[ClientEvent], finished: list[Finished]) -> None:
        for event in events:
            if isinstance(event, Greeted):
                self.write(self._core.greeting())
            elif isinstance(event, Broken):
                raise event.error
            else:
                finished.append(event)
