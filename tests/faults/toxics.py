"""What a fault proxy does to the bytes that pass it, named as in Toxiproxy where that has a name for it.

Each is a plain value; `proxy.Stream` asks it what to do with a chunk. Times are in milliseconds, sizes in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

Direction = Literal["up", "down"]
"""up: from who connected to who listens; down: the other way."""


@dataclass(frozen=True)
class Latency:
    """Every chunk arrives `ms` later, give or take `jitter_ms`; order and throughput stay."""

    ms: float
    jitter_ms: float = 0.0


@dataclass(frozen=True)
class Bandwidth:
    """At most so many bytes per second."""

    bytes_per_s: float


@dataclass(frozen=True)
class SlowClose:
    """An end of stream is passed on so much later."""

    ms: float


@dataclass(frozen=True)
class Timeout:
    """No byte passes; after `ms` the connection is closed (0: it stays until the toxic goes, and then breaks)."""

    ms: float = 0.0


@dataclass(frozen=True)
class ResetPeer:
    """The connection is reset (RST to both) `ms` after its next byte."""

    ms: float = 0.0


@dataclass(frozen=True)
class Slicer:
    """Chunks are cut into pieces of `size` bytes, `ms` apart."""

    size: int
    ms: float = 0.0


@dataclass(frozen=True)
class LimitData:
    """A connection is reset once so many of its bytes have passed."""

    nbytes: int


@dataclass(frozen=True)
class Drop:
    """What comes is thrown away, as by a one-way cut that nobody tells the ends of. Connections that lost bytes break
    when the toxic goes."""


@dataclass(frozen=True)
class Hold:
    """What comes is kept back until the toxic goes, as TCP keeps it for a network that comes back."""


@dataclass(frozen=True)
class HalfOpen:
    """The far end is closed and the near one is not told: it may write, and nobody reads."""


@dataclass(frozen=True)
class Corrupt:
    """In each chunk a bit is flipped with this probability."""

    probability: float = 1.0


@dataclass(frozen=True)
class Truncate:
    """Of the next chunk of at least `at_least` bytes only the first half passes, then the connection is reset."""

    at_least: int = 2


Toxic = Union[
    Latency, Bandwidth, SlowClose, Timeout, ResetPeer, Slicer, LimitData, Drop, Hold, HalfOpen, Corrupt, Truncate
]
