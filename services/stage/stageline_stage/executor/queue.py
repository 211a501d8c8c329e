"""What waits to be computed: priority first, then the earliest deadline, then who came first.

Measurements wait behind every batch, whatever its priority, so that live traffic is not disturbed.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

BATCH, MEASUREMENT = 0, 1


class Urgency(NamedTuple):
    """Sorts the queue, smallest first. `deadline_ns` is infinite for a batch without one."""

    kind: int
    priority: int
    deadline_ns: float

    @classmethod
    def of_batch(cls, priority: int, deadline_ns: int) -> Urgency:
        """The urgency of a batch as its header states it (0: no deadline)."""
        return cls(BATCH, priority, deadline_ns if deadline_ns else math.inf)

    @classmethod
    def of_measurement(cls) -> Urgency:
        """After everything else."""
        return cls(MEASUREMENT, 0, math.inf)


class WorkQueue(Generic[T]):
    """A heap that any thread puts into and one takes from; `on_change` is called after `put` and `close`."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._heap: list[tuple[Urgency, int, T]] = []
        self._arrivals = 0
        self._batches = 0
        self._closed = False
        self._lock = threading.Lock()
        self._on_change = on_change

    def put(self, urgency: Urgency, item: T, *, tell: bool = True) -> bool:
        """Add an item; False (and nothing is added) once closed. The one who takes need not `tell` itself."""
        with self._lock:
            if self._closed:
                return False
            heapq.heappush(self._heap, (urgency, self._arrivals, item))
            self._arrivals += 1
            self._batches += urgency[0] == BATCH
        if tell:
            self._on_change()
        return True

    def take(self) -> T | None:
        """The most urgent item, None if there is none."""
        with self._lock:
            if not self._heap:
                return None
            urgency, _, item = heapq.heappop(self._heap)
            self._batches -= urgency[0] == BATCH
            return item

    def close(self) -> None:
        """Take no more batches, drop measurements; what is queued is still handed out."""
        with self._lock:
            self._closed = True
            self._heap = [entry for entry in self._heap if entry[0].kind == BATCH]
            heapq.heapify(self._heap)
        self._on_change()

    @property
    def depth(self) -> int:
        """Batches that wait."""
        return self._batches

    @property
    def empty(self) -> bool:
        """Whether nothing waits, no measurement either."""
        return not self._heap

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed
