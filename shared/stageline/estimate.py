"""A figure from repeated measurements, with a stated error. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

OUTSIDE = 0.05
"""How likely, at most, the true median lies beyond either end of the interval (five samples and more)."""

UNKNOWN = 1.0
"""The error stated for a single sample, which says nothing of how much the next one would differ."""


@dataclass(frozen=True)
class Estimate:
    """The median, and half the width of a confidence interval for it relative to it."""

    value: float
    error: float


def estimate(samples: Sequence[float]) -> Estimate:
    """The median of `samples` (at least one) with a distribution-free interval between two order statistics.

    With five samples and more the interval covers the true median in at least 90 % of cases (David and Nagaraja,
    Order Statistics, section 7.1); with fewer it is the whole range, and covers it less often. One has no range: its
    error is `UNKNOWN`.
    """
    if len(samples) == 1:
        return Estimate(samples[0], UNKNOWN)
    ordered = sorted(samples)
    count = len(ordered)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    outer = _outer_rank(count)
    half_width = (ordered[count - 1 - outer] - ordered[outer]) / 2
    return Estimate(middle, half_width / middle if middle > 0 else 0.0)


def _outer_rank(count: int) -> int:
    """How many samples at either end can be left out of the interval."""
    left_out, tail = 0, 1
    while tail / 2**count <= OUTSIDE and 2 * left_out < count:
        left_out += 1
        tail += math.comb(count, left_out)
    return max(0, left_out - 1)
