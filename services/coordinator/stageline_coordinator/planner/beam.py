"""More different nodes than an exhaustive search can take: a guided search of bounded width, and proven bounds.

Each value of the bottleneck gets one of three verdicts. It is out of reach where a stretch of the chain cannot be
passed (`search.impassable`), or by prices on the nodes (`prices`), or because the guided search was complete after
all. It is reached where that search finds a plan. Otherwise it is open: bisection goes on above it, and a wider search
may come back to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .masks import Moves
from .prices import Floats, Priced, Pricing, even_prices
from .search import impassable, search
from .standing import Standing, Stop

WIDTHS = (30, 300, 600)
SHORTEN_WIDTH = 300
FEW_STEPS, STEPS, MANY_STEPS = 30, 60, 300  # of prices: for a first bound, for one verdict, for a proof
_CLOSE = 1e-3  # values that differ by less than this share are not worth a wider search each
_STRIDE = 5e-3  # first step upwards from the bound
_SPARSE = 3  # links per node
_ROWS = 600
WORK = 7.5e8
"""What it may do by itself, counted so that equal problems get equal plans: some 6 seconds. A step of prices counts
types squared times cuts; a level of a search, its width times types times `_ROW_WORK`."""
_ROW_WORK = 60
_SEARCHING = 0.7  # of the work is for plans, the rest for the bound
_LAST = 10  # searches between values that are closer than `_CLOSE`


class _Beam:
    prices: Floats

    def __init__(self, standing: Standing, stop: Stop, work: float) -> None:
        self.standing, self._stop = standing, stop
        self._kinds, self._cuts = len(standing.instance.types), standing.instance.blocks + 1
        self._done, self.most = 0.0, work
        self.forget()
        self._passed = np.full(standing.instance.blocks, len(standing.values))

    def stop(self) -> bool:
        """Whether there is no time, or enough work was done."""
        return self._done >= self.most or self._stop()

    def _priced(self) -> bool:
        self._done += self._kinds * self._kinds * self._cuts
        return self.stop()

    def _searched(self, width: int) -> Stop:
        def stop() -> bool:
            self._done += width * self._kinds * _ROW_WORK
            return self.stop()

        return stop

    def forget(self) -> None:
        """Start from even prices again: those of other values may be a bad place to start from."""
        self.prices = even_prices(self.standing.instance)

    def judge(self, index: int, width: int, steps: int = STEPS) -> bool:
        """Whether a better plan was found within `values[index]`; notes what is proven."""
        allowed = self.standing.allowed(index)
        priced = self._price(index, allowed, steps)
        if priced is None or priced.infeasible:
            return False
        if priced.plan is not None and self.standing.reached(priced.plan):
            return True
        found = search(self.standing.instance, allowed, width, priced.guide, self._searched(width))
        if found.complete and found.plan is None:
            self.standing.proven(index)
        return self.standing.refine(allowed, found)

    def prove(self, index: int, steps: int) -> None:
        """Only try to prove that there is no plan within `values[index]`."""
        self._price(index, self.standing.allowed(index), steps)

    def shorten(self) -> bool:
        """Whether a plan as good with fewer stages, or less compute, was found: every node at the same price."""
        assert self.standing.runs is not None
        instance, allowed = self.standing.instance, self.standing.allowed(self.standing.high)
        guide = Pricing(instance, allowed).guide(np.ones(len(instance.types)), len(self.standing.runs))
        return self.standing.refine(allowed, search(instance, allowed, SHORTEN_WIDTH, guide, self._stop))

    def _price(self, index: int, allowed: Moves, steps: int) -> Priced | None:
        if self._cut_off(index, allowed):
            self.standing.proven(index)
            return None
        priced = Pricing(self.standing.instance, allowed).improve(self.prices, steps, self._priced)
        self.prices = priced.guide.prices
        if priced.infeasible:
            self.standing.proven(index)
        return priced

    def _cut_off(self, index: int, allowed: Moves) -> bool:
        """Whether a stretch with few links cannot be passed; those passed within less are not tried again."""
        open_links = np.count_nonzero(allowed.crossing, axis=(0, 1))
        few = _SPARSE * len(self.standing.instance.types)
        for b in np.nonzero(self._passed > index)[0]:
            if b + 2 < allowed.cuts and open_links[b + 1] <= min(few, open_links[b] - 1 if b else few):
                if impassable(self.standing.instance, allowed, int(b), _ROWS):
                    return True
                self._passed[b] = index
        return False


def beam(standing: Standing, stop: Stop, work: float = math.inf) -> Iterator[None]:
    """Yields at each better plan; it may not be the best one, and none may be found where one exists.

    It ends by itself after so much `work`; see `WORK`.
    """
    hunt = _Beam(standing, stop, _SEARCHING * work)
    for width in WIDTHS:
        if standing.runs is None and hunt.judge(len(standing.values) - 1, width, steps=1):
            yield
            _bound(hunt, FEW_STEPS)
        if standing.runs is not None:
            yield from _narrow(hunt, width)
        if standing.done or hunt.stop():
            break
    yield from _last(hunt)
    hunt.most = work
    if standing.runs is not None and not stop():
        hunt.forget()
        hunt.prove(standing.high - 1, MANY_STEPS)  # it may just be the best one
        _bound(hunt, MANY_STEPS)
        if hunt.shorten():
            yield


def _narrow(hunt: _Beam, width: int) -> Iterator[None]:
    """Better plans by a search of that width: from the bound upwards in growing strides, then between the last two."""
    standing = hunt.standing
    floor, stride, met = standing.low, _STRIDE, False
    while floor < standing.high and not standing.close(floor, _CLOSE):
        if hunt.stop():
            return
        middle = standing.middle(floor, standing.high)
        if not met:
            above = int(np.searchsorted(standing.times, (1 + stride) * standing.times[floor]))
            middle, stride = max(floor, min(above, standing.high - 1)), 2 * stride
        if hunt.judge(middle, width):
            met = True
            yield
        else:
            floor = max(middle + 1, standing.low)
    if not standing.done:
        hunt.prove(standing.high - 1, STEPS)


def _last(hunt: _Beam) -> Iterator[None]:
    """Better plans between values that are close together, which `_narrow` leaves alone."""
    standing = hunt.standing
    floor = standing.low
    for _ in range(_LAST if standing.runs is not None else 0):
        if floor >= standing.high or hunt.stop():
            return
        middle = standing.middle(floor, standing.high)
        if hunt.judge(middle, SHORTEN_WIDTH):
            yield
        else:
            floor = max(middle + 1, standing.low)


def _bound(hunt: _Beam, steps: int) -> None:
    """A better bound by proofs alone, of so many steps each."""
    standing = hunt.standing
    ceiling = standing.high
    while standing.low < ceiling and not hunt.stop():
        if standing.times[ceiling] - standing.times[standing.low] <= _CLOSE * standing.times[ceiling]:
            return
        middle = standing.middle(standing.low, ceiling)
        hunt.prove(middle, steps)
        if standing.low <= middle:
            ceiling = middle
