"""How much may be received at once, and how slowly. No I/O and no clock.

A request's bytes belong to nobody's quota until it has arrived whole, so they have a budget of their own: a body is
received only once its whole length is reserved. Who holds a reservation needs no more to finish, so nobody waits for
somebody who waits.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

FREE_BYTES = 64 << 10
"""Bodies up to here are not worth counting: connections are limited and each has a buffer of this size anyway."""
SLOWEST_BYTES_PER_S = 4096
"""A client that sends the frame that it has begun more slowly than this is taken to be gone."""


class Budget:
    """Reservations of connections by number, at most one each; those who wait get theirs in the order they came."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[int, int] = {}
        self._waiting: OrderedDict[int, int] = OrderedDict()
        self.used = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def reserve(self, connection: int, nbytes: int) -> bool:
        """Whether the bytes are reserved; if not, the connection is told by a later `release`."""
        if not self._waiting and self._fits(nbytes):
            self._take(connection, nbytes)
            return True
        self._waiting[connection] = nbytes
        return False

    def release(self, connection: int) -> list[int]:
        """The connection has received its body, or is gone; who has got a reservation through this."""
        self._waiting.pop(connection, None)
        self.used -= self._held.pop(connection, 0)
        granted: list[int] = []
        while self._waiting and self._fits(next(iter(self._waiting.values()))):
            first, nbytes = self._waiting.popitem(last=False)
            self._take(first, nbytes)
            granted.append(first)
        return granted

    def _fits(self, nbytes: int) -> bool:
        return not self._held or self.used + nbytes <= self._limit

    def _take(self, connection: int, nbytes: int) -> None:
        self._held[connection] = nbytes
        self.used += nbytes


@dataclass
class Pace:
    """What came since the last look; `paused` that for a time we took nothing."""

    received: int = 0
    frames: int = 0
    paused: bool = False

    def too_slow(self, seconds: float) -> bool:
        """Whether that is too little in `seconds` for a client in the middle of a frame."""
        return not self.paused and not self.frames and self.received < seconds * SLOWEST_BYTES_PER_S
