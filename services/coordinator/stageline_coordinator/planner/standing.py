"""What a search for the smallest bottleneck knows so far: the best plan, and what is proven to be out of reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .instance import FORBIDDEN, Instance, Ints
from .least import least_compute
from .masks import Moves, moves
from .search import Found, Run

Stop = Callable[[], bool]


class Standing:
    """No plan is within `values[i]` for i < `low`; `runs` (start, end, node type) reach `values[high]`."""

    def __init__(self, instance: Instance, values: Ints) -> None:
        self.instance, self.values = instance, values
        self.times = instance.quanta.times(values)
        self.low, self.high = 0, len(values)
        self.runs: tuple[Run, ...] | None = None

    @property
    def done(self) -> bool:
        """Proven to be the smallest, or proven that there is no plan."""
        return self.low >= self.high

    def allowed(self, index: int) -> Moves:
        """What may be done within that value."""
        return moves(self.instance, int(self.values[index]))

    def proven(self, index: int) -> None:
        """No plan is within `values[index]`."""
        self.low = max(self.low, min(index + 1, self.high))

    def bounded(self, value: int) -> None:
        """No plan is within less than `value`."""
        self.low = max(self.low, min(int(np.searchsorted(self.values, value)), self.high))

    def reached(self, runs: Sequence[Run]) -> bool:
        """Keep the plan if it is the best so far: the lower bottleneck, then fewer stages, then less compute."""
        worst = self.instance.bottleneck(runs)
        if worst == FORBIDDEN or (self.runs is not None and self._rank(runs) >= self._rank(self.runs)):
            return False
        self.runs, self.high = tuple(runs), int(np.searchsorted(self.values, worst))
        return True

    def refine(self, allowed: Moves, found: Found) -> bool:
        """Keep the best of the plans that a search has found."""
        return found.plan is not None and self.reached(least_compute(self.instance, allowed, found))

    def middle(self, floor: int, ceiling: int) -> int:
        """An index from `floor` to below `ceiling`, for bisection: of the geometric mean, then by rank."""
        low, high = float(self.times[floor]), float(self.times[ceiling])
        if high <= 2 * low or low == 0:
            return (floor + ceiling) // 2
        mean = int(np.searchsorted(self.times, math.sqrt(low) * math.sqrt(high)))
        return max(floor, min(mean, ceiling - 1))

    def close(self, first: int, share: float) -> bool:
        """Whether the values from that index to the best plan differ by no more than this share of it."""
        return bool(self.times[self.high] - self.times[first] <= share * self.times[self.high])

    def _rank(self, runs: Sequence[Run]) -> tuple[int, int, int]:
        work = self.instance.work
        compute = sum(int(work[kind, end] - work[kind, start]) for start, end, kind in runs)
        return self.instance.bottleneck(runs), len(runs), compute
