"""What waits to be computed: priority first, then fairly by gateway, each gateway's own by deadline, then arrival.

Of the gateways that have batches of the best priority waiting, the one is served that has had the least computing
time. So those that ask for more than their part get equal times, whatever their batches cost and however many
requests each has, and one that asks for less gets all of it at once. Nobody saves up: a gateway that had nothing
waiting counts as having had as much as the one that has had least of those that wait. (Start-time fair queueing, Goyal
et al., SIGCOMM 1996, with costs known afterwards, as in Linux' CFS.)
Measurements wait behind every batch, whatever its priority, so that live traffic is not disturbed.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

BATCH, MEASUREMENT = 0, 1


Urgency = tuple[int, int, float]
"""Sorts the queue, smallest first: kind, priority, deadline (infinite without one)."""

OF_MEASUREMENT: Urgency = (MEASUREMENT, 0, math.inf)
"""After everything else."""


def urgency_of(priority: int, deadline_ns: int) -> Urgency:
    """That of a batch as its header states it (0: no deadline)."""
    return (BATCH, priority, deadline_ns or math.inf)


class _Lane(Generic[T]):
    """A gateway's batches: (urgency, order of arrival, batch); `spent_s` is the computing time that it has had."""

    __slots__ = ("heap", "spent_s")

    def __init__(self, spent_s: float) -> None:
        self.heap: list[tuple[Urgency, int, T]] = []
        self.spent_s = spent_s


class WorkQueue(Generic[T]):
    """Any thread puts into it and one takes from it; `on_change` is called after `put` and `close`."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._lanes: dict[str, _Lane[T]] = {}
        self._measurements: deque[T] = deque()
        self._least_s = 0.0
        self._arrivals = 0
        self.depth = 0
        """Batches that wait; others only read this, and `closed`."""
        self.closed = False
        """Whether `close` was called."""
        self._lock = threading.Lock()
        self._on_change = on_change

    def put(self, urgency: Urgency, item: T, *, gateway: str = "", tell: bool = True) -> bool:
        """Add an item; False (and nothing is added) once closed. The one who takes need not `tell` itself.

        `gateway`: whose batch it is, as headers name it.
        """
        with self._lock:
            if self.closed:
                return False
            if urgency[0] == MEASUREMENT:
                self._measurements.append(item)
            else:
                lane = self._lanes.get(gateway) or self._new_lane(gateway)
                if not lane.heap and lane.spent_s < self._least_s:
                    lane.spent_s = self._least_s
                heapq.heappush(lane.heap, (urgency, self._arrivals, item))
                self._arrivals += 1
                self.depth += 1
        if tell:
            self._on_change()
        return True

    def take(self) -> T | None:
        """The item whose turn it is, None if there is none."""
        with self._lock:
            if self.depth:
                self.depth -= 1
                return heapq.heappop(self._next_lane().heap)[-1]
            return self._measurements.popleft() if self._measurements else None

    def charge(self, gateway: str, seconds: float) -> None:
        """A batch of the gateway took so long."""
        if len(self._lanes) < 2:
            return
        with self._lock:
            lane = self._lanes.get(gateway)
            if lane is not None:
                lane.spent_s += seconds

    def close(self) -> None:
        """Take no more batches, drop measurements; what is queued is still handed out."""
        with self._lock:
            self.closed = True
            self._measurements.clear()
        self._on_change()

    @property
    def empty(self) -> bool:
        """Whether nothing waits, no measurement either."""
        return not self.depth and not self._measurements

    def _new_lane(self, gateway: str) -> _Lane[T]:
        """One more, without those that tell nothing: of gateways that wait for nothing and owe nothing."""
        busy = {name: lane for name, lane in self._lanes.items() if lane.heap}
        owing = {name: lane for name, lane in self._lanes.items() if lane.spent_s > self._least_s} if busy else {}
        self._lanes = {**owing, **busy}
        lane = self._lanes[gateway] = _Lane(self._least_s)
        return lane

    def _next_lane(self) -> _Lane[T]:
        """Whose turn it is; something waits."""
        if len(self._lanes) == 1:
            return next(iter(self._lanes.values()))
        waiting = [lane for lane in self._lanes.values() if lane.heap]
        self._least_s = max(self._least_s, min(lane.spent_s for lane in waiting))
        return min(waiting, key=_turn)


def _turn(lane: _Lane[T]) -> tuple[int, float, float, int]:
    (_, priority, deadline_ns), arrival, _ = lane.heap[0]
    return priority, lane.spent_s, deadline_ns, arrival
