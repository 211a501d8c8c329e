"""What a chain of stages costs at least, nodes allowed to come again: the bound behind the label search.

State-space relaxation (Christofides, Mingozzi and Toth 1981). For sums, prices on the nodes make their second use
dear: a Lagrangian relaxation of "at most once", whose prices are raised by subgradient steps while the bound grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .space import Floats, Ints, Space

STEP = 0.05  # of the bound; halved when the bound does not grow
LEAST_STEP = 0.02


@dataclass(frozen=True)
class Costs:
    """What a stage `[g, k, l, a, b]` and a whole hop `[i, j, k, c]` cost; `additive`: summed, else the largest counts.

    A hop between replicas costs its parts' shares; `fixed[i, j]` comes on top, whatever the share.
    """

    stage: Floats
    hop: Floats
    fixed: Floats
    additive: bool

    def join(self, first: Floats, second: Floats) -> Floats:
        found: Floats = first + second if self.additive else np.maximum(first, second)
        return found


class Relaxation:
    """`rest[g, c, k]`: the least that can follow a stage of group g that ends at cut c with codec k, prices on top."""

    def __init__(self, space: Space, costs: Costs, limit_s: float, out_of_time: Callable[[], bool]) -> None:
        self._space, self._costs, self._limit = space, costs, limit_s
        self._prices = np.zeros(len(space.problem.nodes))
        self._out_of_time, self._cut_short = out_of_time, False
        self.rest = self._completions(self._prices)

    @property
    def bound(self) -> float:
        """No plan costs less."""
        return self._bound(self.rest, self._prices)

    @property
    def all_prices(self) -> float:
        """What using every node once would cost on top."""
        return float(self._prices.sum())

    def raise_prices(self, rounds: int) -> None:
        """Make nodes dear that the relaxation uses more than once, as long as its bound grows."""
        best, scale, prices = self.bound, 1.0, self._prices
        for _ in range(0 if self._cut_short else rounds):
            over = self._overuse() if math.isfinite(best) else np.zeros(0)
            if not over.any() or scale < LEAST_STEP or self._out_of_time():
                return
            step = scale * STEP * max(abs(best), 1e-300) / float(over @ over)
            prices = np.where(self._needed(), prices + step * over, np.maximum(prices + step * over, 0.0))
            rest = self._completions(prices)
            bound = self._bound(rest, prices)
            if self._cut_short:
                return
            if bound > best:
                best, self.rest, self._prices = bound, rest, prices
            else:
                scale /= 2
            prices = self._prices

    def _needed(self) -> NDArray[np.bool_]:
        nodes = np.arange(len(self._prices))
        return (self._space.required >> nodes & 1).astype(bool)

    def _overuse(self) -> Floats:
        """By node, how often the relaxation's best chain uses it, less the once that is allowed (or asked for)."""
        space, prices = self._space, self._prices
        ahead = self._priced(prices)[:, 0, :, 0, :] + self.rest.transpose(0, 2, 1)
        group, out, end = np.unravel_index(int(np.argmin(ahead)), ahead.shape)
        uses = np.zeros(len(prices))
        while True:
            np.add.at(uses, list(set(space.members[group].tolist())), 1.0)
            if end == space.blocks:
                break
            ahead = self._priced(prices)[:, out, :, end, :] + self.rest.transpose(0, 2, 1)
            ahead = ahead + self._least_hop(int(end), int(out))[group][:, None, None]
            ahead[(space.mask & space.mask[group]) != 0] = math.inf
            group, out, end = np.unravel_index(int(np.argmin(ahead)), ahead.shape)
        over = uses - 1.0
        return np.where(self._needed() | (over > 0) | (prices > 0), over, 0.0)

    def _priced(self, prices: Floats) -> Floats:
        members = [sorted(set(row)) for row in self._space.members.tolist()]
        each = np.array([prices[row].sum() for row in members])
        return self._costs.stage + each[:, None, None, None, None] if prices.any() else self._costs.stage

    def _bound(self, rest: Floats, prices: Floats) -> float:
        first = self._costs.join(self._priced(prices)[:, 0, :, 0, :], rest.transpose(0, 2, 1))
        return float(first.min(initial=math.inf)) - float(prices.sum())

    def _completions(self, prices: Floats) -> Floats:
        space, costs = self._space, self._costs
        size, cuts = len(space.mask), space.blocks + 1
        rest = np.full((size, cuts, len(space.codecs)), math.inf)
        rest[:, -1, 0] = 0.0
        priced = self._priced(prices)
        clash = (space.mask[:, None] & space.mask[None, :]) != 0
        for c in range(cuts - 2, 0, -1):
            if self._out_of_time():
                self._cut_short = True
                return np.zeros_like(rest)  # whatever follows costs something
            ahead = costs.join(priced[:, :, :, c, c + 1 :], rest[:, None, c + 1 :, :].transpose(0, 1, 3, 2))
            following = ahead.min(axis=(2, 3))  # [h, k]
            for k in range(len(space.codecs)):
                hop = self._least_hop(c, k)
                hop[clash] = math.inf
                rest[:, c, k] = costs.join(hop, following[None, :, k]).min(axis=1)
        return rest

    def _least_hop(self, c: int, k: int) -> Floats:
        """`[g, h]`: what a hop costs at least, whatever the shares."""
        space, members = self._space, self._space.members
        pairs = self._costs.hop[:, :, k, c] + self._costs.fixed
        pairs = np.where(space.links_s[:, :, k, c] + space.loads_s <= self._limit, pairs, math.inf)
        if space.parts is None:
            return pairs[np.ix_(members[:, 0], members[:, 0])]
        single = (space.mask & (space.mask - 1)) == 0
        whole = pairs[np.ix_(members[:, 0], members[:, 0])]
        shared = np.full_like(whole, math.inf)
        for r in range(members.shape[1]):
            for q in range(members.shape[1]):
                shared = np.minimum(shared, self._costs.hop[:, :, k, c][np.ix_(members[:, r], members[:, q])])
        if not self._costs.additive:
            shared = np.zeros_like(shared)
        return np.where(single[:, None] & single[None, :], whole, shared)

    def paid(self, used: Ints) -> Floats:
        """What the prices of the nodes that are not used come to, negative: each would be used once at most."""
        if not self._prices.any():
            return np.zeros(used.shape)
        bits = [(used >> i & 1) * price for i, price in enumerate(self._prices) if price]
        paid: Floats = sum(bits, np.zeros(used.shape)) - self._prices.sum()
        return paid
