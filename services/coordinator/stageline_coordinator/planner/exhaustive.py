"""The smallest bottleneck, proven: bisection over its finitely many values, an exhaustive search for each."""

from __future__ import annotations

from collections.abc import Iterator

from .lattice import furthest
from .search import search
from .standing import Standing, Stop
from .ties import cheapest

WORTH = 0.75
"""A plan is worth reporting if its bottleneck is at most this share away from the bound: a first one is soon found."""


def without_hops(standing: Standing, stop: Stop) -> None:
    """Solve the relaxation without hops: its value is a bound, and its plan may well be one for the problem.

    If that reaches the bound then it also has the fewest stages and the least compute, as no plan of the problem
    has fewer or less. Where there is no time to find the value, what is ruled out is still noted.
    """
    relaxed = standing.instance.relaxed()
    low, high = standing.low, len(standing.values)
    while low < high:
        if stop():
            break
        middle = (low + high) // 2
        if furthest(relaxed, int(standing.values[middle])).max() == relaxed.blocks:
            high = middle
        else:
            low = middle + 1
    standing.low = low
    if low == high < len(standing.values):
        standing.reached(cheapest(relaxed, int(standing.values[low])))


def exhaustive(standing: Standing, stop: Stop) -> Iterator[None]:
    """Yields at each better plan that is worth it. At the end it is the best one, or there is none."""
    middle = standing.middle(standing.low, standing.high) if standing.runs else len(standing.values) - 1
    while not standing.done:
        within = stop if standing.runs else lambda: False  # a first plan comes soon, and in any case
        found = search(standing.instance, standing.allowed(middle), stop=within)
        if found.plan is None:
            if found.complete:
                standing.proven(middle)
        elif standing.reached(found.plan) and standing.close(standing.low, WORTH):
            yield
        if stop() or standing.done:
            break
        middle = standing.middle(standing.low, standing.high)
    if standing.runs is not None and not stop():
        allowed = standing.allowed(standing.high)
        if standing.refine(allowed, search(standing.instance, allowed, stop=stop)):
            yield
