"""What waits to be computed: priority first, then the earliest deadline, then who came first.

Measurements wait behind every batch, whatever its priority, so that live traffic is not disturbed.
"""

from __future__ import annotations

import heapq
import math
import threading
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

BATCH, MEASUREMENT = 0, 1


@dataclass(frozen=True, order=True)
class Urgency:
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


@dataclass(order=True)
class _Entry(Generic[T]):
    urgency: Urgency
    arrival: int
    item: T = field(compare=False)


class WorkQueue(Generic[T]):
    """A heap between the I/O thread, which puts, and the main thread, which takes."""

    def __init__(self) -> None:
        self._heap: list[_Entry[T]] = []
        self._arrivals = 0
        self._batches = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, urgency: Urgency, item: T) -> bool:
        """Add an item; False (and nothing is added) once closed."""
        with self._changed:
            if self._closed:
                return False
            heapq.heappush(self._heap, _Entry(urgency, self._arrivals, item))
            self._arrivals += 1
            self._batches += urgency.kind == BATCH
            self._changed.notify()
            return True

    def take(self, *, wait: bool = True) -> T | None:
        """The most urgent item; None once closed and empty, or at once when empty and not to `wait`."""
        with self._changed:
            while wait and not self._heap and not self._closed:
                self._changed.wait()
            if not self._heap:
                return None
            entry = heapq.heappop(self._heap)
            self._batches -= entry.urgency.kind == BATCH
            return entry.item

    def close(self) -> None:
        """Take no more batches, drop measurements; what is queued is still handed out."""
        with self._changed:
            self._closed = True
            self._heap = [entry for entry in self._heap if entry.urgency.kind == BATCH]
            heapq.heapify(self._heap)
            self._changed.notify_all()

    @property
    def depth(self) -> int:
        """Batches that wait."""
        return self._batches

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed
