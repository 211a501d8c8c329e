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
_AIM = 0.02  # how far above the budget the steps aim


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


class Pricing:
    """The relaxation for one bound."""

    def __init__(self, instance: Instance, allowed: Moves) -> None:
        self._counts = np.array(instance.counts, dtype=np.float64)
        self._must = np.array(instance.must, dtype=bool)
        self._allowed = allowed
        self._blocks = instance.blocks
        self._run = np.where(allowed.runs, 0.0, np.inf)
        crossing = np.where(allowed.crossing, 0.0, np.inf)
        self._crossing = np.ascontiguousarray(crossing.transpose(2, 1, 0))  # [c, to, from]
        usable = np.flatnonzero(np.logical_or.reduce(allowed.crossing, axis=(0, 1)))
        self._starts = [int(c) for c in usable[::-1] if 0 < c < self._blocks] + [0]

    def start(self) -> Floats:
        """All nodes at the same price."""
        return np.full(len(self._counts), 1 / self._counts.sum())

    def guide(self, prices: Floats, budget: float) -> Guide:
        """By these prices, for plans that cost no more than `budget`."""
        return Guide(prices, self._togo(prices)[0], budget * (1 + _MARGIN))

    def improve(self, prices: Floats, steps: int, stop: Callable[[], bool]) -> Priced:
        """Up to `steps` steps from these prices, of which at least one is done."""
        best, most = None, -np.inf
        for _ in range(steps):
            prices = prices / (np.abs(prices) @ self._counts)
            budget = float(prices @ self._counts)
            togo, onward = self._togo(prices)
            opening = np.where(self._allowed.first, onward[:, 0], np.inf)
            excess = float(opening.min()) - budget
            guide = Guide(prices, togo, budget + _MARGIN)
            if excess > _MARGIN:
                return Priced(True, guide)
            if best is None or excess > most:
                best, most = guide, excess
            runs = self._cheapest(togo, onward, int(opening.argmin()))
            visits = np.bincount([kind for _, _, kind in runs], minlength=len(prices)).astype(np.float64)
            if self._is_plan(visits):
                return Priced(False, guide, runs)
            prices = self._step(prices, visits - self._counts, excess)
            if not prices.any() or stop():
                break
        assert best is not None
        return Priced(False, best)

    def _togo(self, prices: Floats) -> tuple[Floats, Floats]:
        """`Guide.togo`, and `[t, c]`: the same for a node of type t that starts at cut c, its own price included."""
        togo = np.full((len(prices), self._blocks + 1), np.inf)
        onward = np.full_like(togo, np.inf)
        togo[self._allowed.last, -1] = 0
        for c in self._starts:
            onward[:, c] = prices + (togo[:, c + 1 :] + self._run[:, c, c + 1 :]).min(axis=1)
            if c:
                togo[:, c] = (onward[:, c, None] + self._crossing[c]).min(axis=0)
        return togo, onward

    def _cheapest(self, togo: Floats, onward: Floats, kind: int) -> tuple[Run, ...]:
        start, runs = 0, list[Run]()
        while True:
            ends = togo[kind, start + 1 :] + self._run[kind, start, start + 1 :]
            end = start + 1 + int(ends.argmin())
            runs.append((start, end, kind))
            if end == self._blocks:
                return tuple(runs)
            start, kind = end, int((onward[:, end] + self._crossing[end][:, kind]).argmin())

    def _is_plan(self, visits: Floats) -> bool:
        return bool((visits <= self._counts).all() and (visits == self._counts)[self._must].all())

    def _step(self, prices: Floats, over: Floats, excess: float) -> Floats:
        over = np.where((prices <= 0) & (over < 0) & ~self._must, 0, over)
        moved = prices + (_AIM - excess) / max(float(over @ over), 1.0) * over
        return np.where(self._must, moved, np.maximum(moved, 0))
