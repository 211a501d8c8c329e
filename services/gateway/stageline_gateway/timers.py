"""The engine's timers: a heap of (time, what, key). Nothing is cancelled; who asked checks whether it still matters."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from enum import IntEnum


class Timer(IntEnum):
    """What a timer is about.

    `key` is a request, a batch (OVERDUE), a waiter (WAITER), a holder (RESTORED), what came before the first plan
    (EARLY) or nothing (BATCH, KEPT, REACH).
    """

    DEADLINE = 0
    OVERDUE = 1
    BACKOFF = 2
    BATCH = 3
    WAITER = 4
    KEPT = 5
    RESTORED = 6
    REACH = 7
    EARLY = 8


class Timers:
    """Times in seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, Timer, int]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, time: float, what: Timer, key: int = 0) -> None:
        """Ask for a wake-up."""
        heapq.heappush(self._heap, (time, what, key))

    def due(self, now: float) -> list[tuple[Timer, int]]:
        """Take out what has come due."""
        found: list[tuple[Timer, int]] = []
        while self._heap and self._heap[0][0] <= now:
            _, what, key = heapq.heappop(self._heap)
            found.append((what, key))
        return found

    def next(self) -> float | None:
        """When the next one is due."""
        return self._heap[0][0] if self._heap else None

    def keep(self, matters: Callable[[Timer, int], bool]) -> None:
        """Forget all others."""
        self._heap = [timer for timer in self._heap if matters(timer[1], timer[2])]
        heapq.heapify(self._heap)
