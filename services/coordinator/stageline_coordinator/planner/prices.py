"""A proof that no plan is within a bound, by prices on nodes; and what they say about partial plans.

Forget that a node may serve one stage only, and let every visit to a node of type t cost a price p_t ≥ 0 instead
(any p_t for required nodes, which every plan visits once). The cheapest chain then costs D(p), by dynamic
programming over (last node, cut). A plan visits no node twice, so it costs at most the budget Σ p; where D(p) is more
than that there is none. It is the Lagrangian relaxation of the nodes' capacities; the prices are raised on nodes
visited too often (subgradient steps in Polyak's length). A cheapest chain that visits no node twice is a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .instance import Instance
from .masks import Moves

Floats = NDArray[np.float64]
Run = tuple[int, int, int]

_MARGIN = 1e-9  # relative; what floats may sum to in error is far less
_AIM = 0.01  # how far above the budget the steps aim; half as far from the best after `_PATIENCE` failures
_MOST_GAIN, _LEAST_GAIN = 0.1, 1e-4
_PATIENCE = 20


@dataclass(frozen=True)
class Guide:
    """`togo[t, c]`: the cheapest way to the end for a plan whose last node, of type t, ends at cut c."""

    prices: Floats
    togo: Floats
    budget: float

    def price(self, used: NDArray[np.int16], kind: NDArray[np.intp], ends: NDArray[np.bool_]) -> Floats:
        """Of the cheapest plans that go on from these: nodes `used[i]`, then one of `kind[i]`, at one of `ends[i]`."""
        togo = np.where(ends, self.togo[kind], np.inf).min(axis=1)
        found: Floats = used @ self.prices + self.prices[kind] + togo
        return found


@dataclass(frozen=True)
class Priced:
    """`infeasible`: proven. Else `plan`, if one was met, and the guide of the best prices."""

    infeasible: bool
    guide: Guide
    plan: tuple[Run, ...] | None = None


@dataclass(frozen=True)
class _Look:
    """What some prices say: how much more than the budget the cheapest chain `runs` costs, and its visits by type."""

    guide: Guide
    excess: float
    runs: tuple[Run, ...]
    visits: Floats
    is_plan: bool

    @property
    def settled(self) -> bool:
        return self.is_plan or self.excess > _MARGIN


def even_prices(instance: Instance) -> Floats:
    """All nodes at the same price: where to start."""
    return np.ones(len(instance.types))


class Pricing:
    """The relaxation for one bound. Tables are `[c, t]` inside, so that minima over cuts or nodes run along rows."""

    def __init__(self, instance: Instance, allowed: Moves) -> None:
        self._counts = np.array(instance.counts, dtype=np.float64)
        self._must = np.array(instance.must, dtype=bool)
        self._allowed = allowed
        self._blocks = instance.blocks
        self._runs = np.where(allowed.runs, 0.0, np.inf)
        self._crossing = np.ascontiguousarray(np.where(allowed.crossing, 0.0, np.inf).transpose(2, 1, 0))
        usable = np.flatnonzero(np.logical_or.reduce(allowed.crossing, axis=(0, 1)))
        self._stages = [self._stage(int(c)) for c in usable[::-1] if 0 < c < self._blocks] + [self._stage(0)]

    def _stage(self, start: int) -> tuple[int, slice, Floats]:
        """(start, the ends that any node reaches from there, 0 or inf by end and type)."""
        reached = np.flatnonzero(self._allowed.runs[:, start].any(axis=0))
        ends = slice(int(reached[0]), int(reached[-1]) + 1) if len(reached) else slice(start + 1, start + 2)
        return start, ends, np.ascontiguousarray(self._runs[:, start, ends].T)

    def guide(self, prices: Floats, budget: float) -> Guide:
        """By these prices, for plans that cost no more than `budget`."""
        return Guide(prices, self._togo(prices)[0].T, budget * (1 + _MARGIN))

    def improve(self, prices: Floats, steps: int, stop: Callable[[], bool]) -> Priced:
        """Up to `steps` steps from these prices; at least one is taken, and fewer once they lead nowhere."""
        best, stale = self._look(prices), 0
        here, gain = best, min(_AIM - best.excess, _MOST_GAIN)
        for _ in range(steps):
            if best.settled or gain < _LEAST_GAIN or stop():
                break
            here = self._look(self._step(here, min(_AIM, best.excess + gain)))
            if here.settled or here.excess > best.excess:
                best, stale = here, 0
            else:
                stale += 1
            if stale == _PATIENCE:
                here, gain, stale = best, gain / 2, 0
        return Priced(best.excess > _MARGIN, best.guide, best.runs if best.is_plan else None)

    def _look(self, prices: Floats) -> _Look:
        prices = prices / (np.abs(prices) @ self._counts)
        budget = float(prices @ self._counts)
        togo, onward = self._togo(prices)
        opening = np.where(self._allowed.first, onward[0], np.inf)
        excess = float(opening.min()) - budget
        runs = self._cheapest(togo, onward, int(opening.argmin())) if excess <= _MARGIN else ()
        visits = np.bincount([kind for _, _, kind in runs], minlength=len(prices)).astype(np.float64)
        fits = bool((visits <= self._counts).all() and (visits == self._counts)[self._must].all())
        return _Look(Guide(prices, togo.T, budget + _MARGIN), excess, runs, visits, bool(runs) and fits)

    def _togo(self, prices: Floats) -> tuple[Floats, Floats]:
        """`[c, t]`: as `Guide.togo`; and the same for a node of type t that starts at cut c, its own price included."""
        togo = np.full((self._blocks + 1, len(prices)), np.inf)
        onward = np.full_like(togo, np.inf)
        togo[-1, self._allowed.last] = 0
        for c, ends, barred in self._stages:
            np.minimum.reduce(togo[ends] + barred, axis=0, out=onward[c])
            onward[c] += prices
            if c:
                np.minimum.reduce(onward[c][:, None] + self._crossing[c], axis=0, out=togo[c])
        return togo, onward

    def _cheapest(self, togo: Floats, onward: Floats, kind: int) -> tuple[Run, ...]:
        start, runs = 0, list[Run]()
        while True:
            end = start + 1 + int((togo[start + 1 :, kind] + self._runs[kind, start, start + 1 :]).argmin())
            runs.append((start, end, kind))
            if end == self._blocks:
                return tuple(runs)
            start, kind = end, int((onward[end] + self._crossing[end][:, kind]).argmin())

    def _step(self, here: _Look, aim: float) -> Floats:
        """Prices that would bring the excess to `aim` if the cheapest chain stayed the same."""
        prices, over = here.guide.prices, here.visits - self._counts
        over = np.where((prices <= 0) & (over < 0) & ~self._must, 0, over)
        moved = prices + (aim - here.excess) / float(over @ over) * over
        moved = np.where(self._must, moved, np.maximum(moved, 0))
        return moved if moved.any() else np.ones_like(prices)
