"""How fast a model is answered, measured on its results: what can still be in time, and when to come back.

Refusing at once what would be late anyway keeps the workers busy with what is not: goodput under overload stays what it
is at capacity, as in DAGOR (Zhou et al., SoCC 2018) and Breakwater (Cho et al., OSDI 2020), here with deadlines as the
measure. Everything errs on the side of admitting. Pure; times in seconds.
"""

from __future__ import annotations

from collections import deque
from math import exp

MEMORY_S = 5.0
"""What was measured so long ago counts for 1/e."""
SURE_S = 0.2
"""The rate is unknown until answers came for so long while requests waited."""
STALL_S = 1.0
STALL_TIMES = 8
"""Nothing for so long, and for so many times what a batch usually takes, is a fault: it says nothing about the rate."""
LATENCIES = 32
SOONEST_S = 0.05
LATEST_S = 5.0


class Capacity:
    """Of one model."""

    def __init__(self) -> None:
        self._items = 0.0
        self._busy_s = 0.0
        self._last: float | None = None
        self._stalled_until = -1.0
        self._latencies: deque[float] = deque(maxlen=LATENCIES)

    def answered(self, items: int, sent: float, now: float, *, waiting: bool) -> None:
        """A batch that was dispatched at `sent` came back; `waiting`: whether more requests wait."""
        busy_since, self._last = self._last, now if waiting else None
        passed = now - (sent if busy_since is None else max(busy_since, sent))
        judged = self._latencies or self._stalled_until < 0  # a slow model's first answers look like a fault, once
        if judged and passed > max(STALL_S, STALL_TIMES * self.usual_s):
            self._stalled_until = now
        if sent < self._stalled_until:
            return
        self._latencies.append(now - sent)
        if busy_since is not None:
            kept = exp(-passed / MEMORY_S)
            self._items = self._items * kept + items
            self._busy_s = self._busy_s * kept + passed

    @property
    def item_s(self) -> float:
        """Seconds from one item's answer to the next while requests wait; 0 while unknown."""
        return self._busy_s / self._items if self._busy_s >= SURE_S else 0.0

    @property
    def shortest_s(self) -> float:
        """From dispatch to result, at least; 0 while unknown."""
        return min(self._latencies, default=0.0)

    @property
    def usual_s(self) -> float:
        """From dispatch to result, on average; 0 while unknown."""
        return sum(self._latencies) / len(self._latencies) if self._latencies else 0.0

    def expected_s(self, ahead: int) -> float:
        """Until a request is answered that has so many items before it in the queue."""
        return ahead * self.item_s + self.usual_s

    def retry_after_s(self, ahead: int) -> float:
        """When to come back to a queue of so many items: once half of it is gone, within bounds."""
        return min(LATEST_S, max(SOONEST_S, ahead * self.item_s / 2))
