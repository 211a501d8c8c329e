"""The smallest bottleneck, proven: bisection over its finitely many values, an exhaustive search for each."""

from __future__ import annotations

from collections.abc import Iterator

from .lattice import furthest
from .search import search
from .standing import Standing, Stop
from .ties import cheapest


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
    """Yields at each better plan. At the end the plan is the best one, or it is proven that there is none."""
    middle = (standing.low + standing.high) // 2 if standing.runs else len(standing.values) - 1
    while not standing.done:
        found = search(standing.instance, standing.allowed(middle))
        if found.plan is None:
            standing.proven(middle)
        elif standing.reached(found.plan):
            yield
        if stop():
            return
        middle = (standing.low + standing.high) // 2
    if standing.runs is not None:
        allowed = standing.allowed(standing.high)
        if standing.refine(allowed, search(standing.instance, allowed)):
            yield
