"""Throughput where hops share media, such as one Wi-Fi channel: the sum of their seconds counts, not the largest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .labels import TIE, Found, Step, value_of
from .single import Effort, least, peak_costs
from .space import Floats, Others, Space
from .sums import media_costs

TURNS = 24
WEIGHINGS = 6
CLOSE = 1e-3  # relative; below it the search steps from plan to plan instead of halving


def smallest_with_media(space: Space, others: Others, effort: Effort, peak: Found) -> Found:
    """The smallest of the bottleneck and the media's busy seconds; `peak` is the answer without media."""
    if peak.steps is None or not len(others.media_s):
        return peak
    low, best = peak.bound, Found(peak.steps, whole(space, others, peak.steps), peak.bound)
    for _ in range(TURNS):
        if low >= best.value * (1 - 10 * TIE) or effort.out_of_time():
            break
        last = best.value - low < CLOSE * best.value
        limit = best.value * (1 - 8 * TIE) if last else (low + best.value) / 2
        found, excluded = _within(space, others, effort, limit)
        if found is not None:
            best = found
        elif excluded:
            low = limit
        else:
            break
    return Found(best.steps, best.value, min(low, best.value))


def whole(space: Space, others: Others, steps: Sequence[Step]) -> float:
    """How busy a plan keeps the busiest of its nodes, ports and links, and of all media."""
    media = media_of(space, others, steps)
    return max(value_of(space, peak_costs(space), steps), float(media.max(initial=0.0)))


def media_of(space: Space, others: Others, steps: Sequence[Step]) -> Floats:
    """How busy a plan keeps each medium, other models' use included."""
    own = [value_of(space, media_costs(space, one), steps) for one in np.eye(len(others.media_s))]
    return np.array(own) + others.media_s


def _within(space: Space, others: Others, effort: Effort, limit_s: float) -> tuple[Found | None, bool]:
    """A plan with every stage, hop and medium within a limit; else whether it is proven that there is none.

    Whatever the weights, the weighted mean of the media's seconds is at most the largest of them. So a mean that cannot
    be within the limit proves it; the weights shift to the media that break it.
    """
    weights = np.full(len(others.media_s), 1 / len(others.media_s))
    for _ in range(WEIGHINGS if len(weights) > 1 else 1):
        room = float(weights @ (limit_s - others.media_s))
        if room < 0:
            return None, True
        above = math.nextafter(room * (1 + TIE), math.inf)
        found = least(space, media_costs(space, weights), limit_s, effort, Found(None, above, 0.0))
        if found.steps is None:
            return None, found.bound >= above * (1 - 2 * TIE)
        value = whole(space, others, found.steps)
        if value <= limit_s * (1 + 2 * TIE):
            return Found(found.steps, value, 0.0), False
        weights = weights * np.where(media_of(space, others, found.steps) > limit_s, 2.0, 1.0)
        weights /= weights.sum()
    return None, False
