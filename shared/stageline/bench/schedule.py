"""When a load generator sends. Pure: times are arguments, in seconds since the start.

*Closed loop*: a fixed number of callers, each of whom asks again once it has its answer. While the server stalls
nobody asks, so a stall of a second costs each caller one slow request, and the percentiles hardly notice.

*Open loop*: requests have times that are fixed beforehand, as users who know nothing of each other have. Each latency
counts from that intended time, however late the request could be sent. This avoids what Gil Tene called coordinated
omission ("How NOT to Measure Latency"), in the way of his wrk2 (https://github.com/giltene/wrk2) and HdrHistogram.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Protocol


@dataclass(frozen=True)
class Window:
    """The part of a run that is measured: half-open [warmup_s, warmup_s + duration_s)."""

    warmup_s: float
    duration_s: float

    @property
    def end_s(self) -> float:
        """When nothing new is due any more."""
        return self.warmup_s + self.duration_s

    def __contains__(self, at: float) -> bool:
        return self.warmup_s <= at < self.end_s


class Pacer(Protocol):
    """Decides when requests are sent."""

    def next_at(self) -> float | None:
        """When to send the next request, perhaps in the past; None: not before another has ended, or never."""

    def take(self, now: float) -> float | None:
        """The intended time of a request that is to be sent now, if there is one."""

    def ended(self, now: float, pause_s: float = 0.0) -> None:
        """A request has ended; `pause_s` is how long its caller, if it has one, waits before it asks again."""

    def over(self, now: float) -> bool:
        """Whether nothing will be sent any more."""

    def backlog(self) -> Iterator[float]:
        """The intended times of what was due, or will be until the end, and is not sent. Ends the pacing."""


class ClosedLoop:
    """`concurrency` callers who begin at once and ask until `end_s`."""

    def __init__(self, concurrency: int, end_s: float) -> None:
        self._free = [0.0] * concurrency
        self._end_s = end_s

    def next_at(self) -> float | None:
        """When the next caller is free."""
        return self._free[0] if self._free and self._free[0] < self._end_s else None

    def take(self, now: float) -> float | None:
        """Now, if a caller is free."""
        if self.over(now) or not self._free or self._free[0] > now:
            return None
        heapq.heappop(self._free)
        return now

    def ended(self, now: float, pause_s: float = 0.0) -> None:
        """Its caller asks again after the pause."""
        heapq.heappush(self._free, now + pause_s)

    def over(self, now: float) -> bool:
        """Whether the time is up."""
        return now >= self._end_s

    def backlog(self) -> Iterator[float]:
        """Nothing: a caller intends to ask when it asks."""
        return iter(())


class OpenLoop:
    """Requests at the times of `arrivals` (ascending) before `end_s`, at most `limit` of them under way at once.

    What comes while `limit` are under way is sent as soon as one has ended, and keeps its intended time.
    """

    def __init__(self, arrivals: Iterator[float], limit: int, end_s: float) -> None:
        self._arrivals = arrivals
        self._end_s = end_s
        self._room = limit
        self._next = self._draw()

    def next_at(self) -> float | None:
        """The next arrival."""
        return self._next if self._room > 0 else None

    def take(self, now: float) -> float | None:
        """The earliest arrival that is due."""
        intended = self.next_at()
        if intended is None or intended > now:
            return None
        self._room -= 1
        self._next = self._draw()
        return intended

    def ended(self, now: float, pause_s: float = 0.0) -> None:
        """Room for one more; arrivals do not pause."""
        self._room += 1

    def over(self, now: float) -> bool:
        """Whether all arrivals are sent."""
        return self._next is None

    def backlog(self) -> Iterator[float]:
        """The arrivals that are not sent."""
        while self._next is not None:
            yield self._next
            self._next = self._draw()

    def _draw(self) -> float | None:
        at = next(self._arrivals, None)
        return at if at is not None and at < self._end_s else None


def constant(rate: float) -> Iterator[float]:
    """Arrivals at equal distances, `rate` per second."""
    return (number / rate for number in count())


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Arrivals of a Poisson process: independent of each other, `rate` per second on average."""
    chance = Random(seed)
    at = 0.0
    while True:
        at += chance.expovariate(rate)
        yield at
