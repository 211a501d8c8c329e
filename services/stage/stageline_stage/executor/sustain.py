"""What a run takes when runs follow each other without end, on a box that may use a part of its processor. Pure.

A quota lets short runs pass at full speed and stops the process later, for a part of the kernel's period. What counts
is how much processor time a run needs of what there is.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

KEPT = 0.98
"""Of what was summed up, with every run: about the last 50 count."""


def sustained(seconds: Sequence[float], processor: Sequence[float], quota: float) -> Sequence[float]:
    """Seconds of each run on `quota` CPUs (0: not limited), from those on the clock and those of the processor.

    The larger of the two medians decides: a box that others use, too, has less than its quota.
    """
    if not quota:
        return seconds
    needed = [spent / quota for spent in processor]
    return max(seconds, needed, key=statistics.median)


class Sustained:
    """The same for runs one by one, as they come: where the clock's recent sum is larger, each counts for more."""

    def __init__(self, quota: float) -> None:
        self._quota = quota
        self._clock_s = self._needed_s = 0.0

    def add(self, seconds: float, processor_s: float) -> float:
        """The seconds that this run counts for."""
        if not self._quota:
            return seconds
        needed_s = processor_s / self._quota
        self._clock_s = KEPT * self._clock_s + seconds
        self._needed_s = KEPT * self._needed_s + needed_s
        return needed_s * max(1.0, self._clock_s / self._needed_s) if needed_s else seconds
