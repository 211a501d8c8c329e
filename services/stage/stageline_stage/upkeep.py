"""What a worker takes of its box whatever it serves: heartbeats, watching the executor, metrics. Pure.

Processor time is summed up in windows. Downloads, measurements and traffic add to some of them, never take away: so the
least of the last windows is what is always there.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 2.0
WINDOWS = 30


class Upkeep:
    """Tell it what processor time has been used so far; `cpus` is what that is at least, in CPUs."""

    def __init__(self) -> None:
        self._begun: tuple[float, float] | None = None
        self._windows: deque[float] = deque(maxlen=WINDOWS)

    @property
    def cpus(self) -> float:
        """0 before the first window is over."""
        return min(self._windows, default=0.0)

    def add(self, now: float, used_s: float) -> None:
        """`used_s`: processor seconds since any point in time; less than before: somebody started anew."""
        if self._begun is None or used_s < self._begun[1]:
            self._begun = (now, used_s)
            return
        begun, before_s = self._begun
        if now - begun >= WINDOW_S:
            self._windows.append((used_s - before_s) / (now - begun))
            self._begun = (now, used_s)


def share(cpus: float, capacity: float, threads: int) -> float:
    """How much slower a stage of `threads` threads is for it, as a part of its speed (0 to 0.9).

    `capacity`: the CPUs of the box, or its quota. What is left beside the stage's threads is free for it.
    """
    wanted = min(capacity, threads)
    return min(0.9, max(0.0, 1 - (capacity - cpus) / wanted)) if wanted > 0 else 0.0
