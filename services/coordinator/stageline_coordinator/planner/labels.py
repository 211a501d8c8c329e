"""The best chain of stages on distinct groups of nodes, by labels: exact while none has to be dropped.

A label is a plan's beginning: the nodes used, the last group, the cut reached and that hop's codec (with replicas also
the last stage itself, on which the shares of its hop depend). Of two that agree in these the better one is kept. What
a label can at best become is bounded by the same recursion with nodes allowed to come again (state-space relaxation,
Christofides, Mingozzi and Toth 1981), for sums with prices on the nodes that make their second use dear (a Lagrangian
relaxation of "at most once"); labels that cannot beat the target are dropped. Levels are numbers of stages;
where a level has more than `width` labels the rest is dropped too, and the best of what they could have become is the
proven lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .relax import Costs, Relaxation
from .space import LONGEST_S, Floats, Ints, Space

LABELS = "labels"
"""What the algorithm is called in a solution."""

CHUNK = 1 << 19  # pairs of labels and stages looked at together
MERGE = 1 << 19  # new labels kept before the worse ones among them are dropped
TIE = 1e-13  # relative: what differs by less is equal


Spending = tuple[Floats, Floats]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Step:
    """A stage of a plan: its nodes, blocks [start, end), and the codec of the hop into it, by index."""

    nodes: tuple[int, ...]
    start: int
    end: int
    codec: int


@dataclass(frozen=True)
class Found:
    """`steps` None: no plan below the target. No plan, found or not, is below `bound` (at most the target)."""

    steps: tuple[Step, ...] | None
    value: float
    bound: float


def value_of(space: Space, costs: Costs, steps: Sequence[Step]) -> float:
    """What a plan costs; inf if a group of nodes is none of the space's."""
    place = {int(mask): g for g, mask in enumerate(space.mask)}
    outs = [one.codec for one in steps[1:]] + [0]
    masks = [sum(1 << node for node in one.nodes) for one in steps]
    if not place.keys() >= set(masks):
        return math.inf
    groups = [place[mask] for mask in masks]
    parts: list[Floats] = []
    total = np.zeros(1)
    for i, (step, g, out) in enumerate(zip(steps, groups, outs, strict=True)):
        k, a, b = step.codec, step.start, step.end
        parts.append(np.ones(1) if space.parts is None else space.parts[g, :, k, out, a, b])
        for r, q in product(range(len(parts[i])), repeat=2) if i else ():
            here, there = space.members[groups[i - 1], r], space.members[g, q]
            part = parts[i - 1][r] * parts[i][q]
            total = costs.join(total, part * costs.hop[here, there, k, a] + costs.fixed[here, there])
        total = costs.join(total, costs.stage[g, k, out, a, b])
    return float(total[0])


NOTHING = Found(None, math.inf, 0.0)


@dataclass
class Level:
    used: Ints
    group: Ints
    start: Ints
    end: Ints
    into: Ints
    out: Ints
    value: Floats
    best: Floats
    parent: Ints

    def pick(self, rows: NDArray[np.intp]) -> Level:
        return Level(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class Search:
    """One kind of cost over one space, within a limit of another: every stage and hop at most `limit_s` busy."""

    def __init__(
        self,
        space: Space,
        costs: Costs,
        limit_s: float = math.inf,
        pricings: int = 0,
        out_of_time: Stop = lambda: False,
    ) -> None:
        self._space, self._limit = space, min(limit_s * (1 + TIE), LONGEST_S)
        self._busy = Costs(space.stage_s, space.links_s, space.loads_s, additive=False)
        stage = np.where(space.stage_s <= self._limit, costs.stage, math.inf)
        self._costs = Costs(stage, costs.hop, costs.fixed, costs.additive)
        self._spending = None if costs.additive else _speed(space)
        self._relaxed = Relaxation(space, self._costs, self._limit, out_of_time)
        if costs.additive:
            self._relaxed.raise_prices(pricings)

    @property
    def bound(self) -> float:
        """No plan costs less."""
        return self._relaxed.bound

    def run(self, target: float, width: int, out_of_time: Stop = lambda: False, *, thrifty: bool = False) -> Found:
        """The best plan below `target`; out of time it counts what was not looked at as dropped.

        `thrifty`: of too many labels keep those that spent least memory, not those that promise most.
        """
        spending = _room(self._space) if thrifty else self._spending
        target = min(target, LONGEST_S)
        levels = [self._first(target)]
        best: tuple[float, int, int] | None = None
        dropped = math.inf
        while len(levels[-1].value):
            level = levels[-1]
            done = np.nonzero(level.end == self._space.blocks)[0]
            done = done[level.used[done] & self._space.required == self._space.required]
            if len(done):
                row = int(done[np.argmin(level.value[done])])
                if level.value[row] < target:
                    target = float(level.value[row])
                    best = (target, len(levels) - 1, row)
            live = (level.end < self._space.blocks) & (level.best < target * (1 - TIE))
            if out_of_time():
                dropped = min(dropped, float(level.best[live].min(initial=math.inf)))
                break
            grown, lost = self._grow(level, np.nonzero(live)[0], target, (width, spending, out_of_time))
            dropped = min(dropped, lost)
            levels.append(grown)
        if best is None:
            return Found(None, math.inf, min(dropped, target))
        return Found(self._trace(levels, best[1], best[2]), best[0], min(dropped, best[0]))

    def _first(self, target: float) -> Level:
        space = self._space
        stage = self._costs.stage[:, 0, :, 0, :]  # [g, l, b]
        paid = self._relaxed.paid(space.mask)[:, None, None]
        best = self._costs.join(stage, self._relaxed.rest.transpose(0, 2, 1)) + paid
        keep = (best < target * (1 - TIE)) & (space.before == 0)[:, None, None]
        group, out, end = np.nonzero(keep)
        zero = np.zeros(len(group), dtype=np.int64)
        value = stage[group, out, end]
        return Level(space.mask[group], group, zero, end, zero, out, value, best[group, out, end], zero)

    def _grow(
        self, level: Level, rows: NDArray[np.intp], target: float, bounds: tuple[int, Spending | None, Stop]
    ) -> tuple[Level, float]:
        """The labels with one stage more, and the best of what those could have become that were dropped."""
        width, spending, out_of_time = bounds
        grown, dropped = level.pick(np.zeros(0, dtype=np.intp)), math.inf
        parts = [grown]
        place = level.end[rows] * len(self._space.codecs) + level.out[rows]
        order = np.argsort(place, kind="stable")
        rows, edges = rows[order], np.nonzero(np.diff(place[order]))[0] + 1
        for same in np.split(rows, edges) if len(rows) else ():
            heads = self._heads(int(level.end[same[0]]), int(level.out[same[0]]), target, self._least(level, same))
            step = max(1, CHUNK // max(1, len(heads[0]) * self._space.members.shape[1] ** 2))
            for at in range(0, len(same) if len(heads[0]) else 0, step):
                if out_of_time():
                    dropped = min(dropped, float(level.best[same[at:]].min()))
                    break
                parts.append(self._extend(level, same[at : at + step], heads, target))
                if sum(len(one.value) for one in parts) > MERGE:
                    grown, lost = self._merge(parts, width, spending)
                    parts, dropped = [grown], min(dropped, lost)
        grown, lost = self._merge(parts, width, spending)
        return grown, min(dropped, lost)

    def _merge(self, parts: list[Level], width: int, spending: Spending | None) -> tuple[Level, float]:
        grown = Level(*(np.concatenate([getattr(one, name) for one in parts]) for name in Level.__dataclass_fields__))
        grown = grown.pick(self._undominated(grown))
        if len(grown.value) <= width:
            return grown, math.inf
        order = _order(grown, spending)
        return grown.pick(np.sort(order[:width])), float(grown.best[order[width:]].min())

    def _heads(self, c: int, k: int, target: float, least: float) -> tuple[Ints, Ints, Ints]:
        """Stages (group, codec out, end) that may follow cut c, where the labels cost `least` or more."""
        stage = self._costs.stage[:, k, :, c, :]
        paid = self._relaxed.paid(self._space.mask)[:, None, None]
        best = self._costs.join(stage, self._relaxed.rest.transpose(0, 2, 1)) + paid + least
        group, out, end = np.nonzero(best < target * (1 - TIE))
        return group, out, end

    def _extend(self, level: Level, rows: NDArray[np.intp], heads: tuple[Ints, Ints, Ints], target: float) -> Level:
        space, costs = self._space, self._costs
        group, out, end = heads
        c, k = int(level.end[rows[0]]), int(level.out[rows[0]])
        used = level.used[rows][:, None]
        before = space.before[group]
        free = ((used & space.mask[group]) == 0) & ((used & before) == before)
        hop, busy = self._hops(level, rows, heads, c, k)
        value = costs.join(costs.join(level.value[rows][:, None], hop), costs.stage[group, k, out, c, end])
        best = costs.join(value, self._relaxed.rest[group, end, out])
        if costs.additive:
            best = best + self._relaxed.paid(used | space.mask[group])
        row, head = np.nonzero(free & (best < target * (1 - TIE)) & (busy <= self._limit))
        origin = rows[row]
        return Level(
            level.used[origin] | space.mask[group[head]],
            group[head],
            np.full(len(row), c),
            end[head],
            np.full(len(row), k),
            out[head],
            value[row, head],
            best[row, head],
            origin,
        )

    def _hops(
        self, level: Level, rows: NDArray[np.intp], heads: tuple[Ints, Ints, Ints], c: int, k: int
    ) -> tuple[Floats, Floats]:
        """`[label, head]`: what the hop between them costs, and how busy its busiest link is."""
        space, members = self._space, self._space.members
        last, (group, out, end) = level.group[rows], heads
        if space.parts is None:
            pair = np.ix_(members[last, 0], members[group, 0])
            busy = (space.links_s[:, :, k, c] + space.loads_s)[pair]
            return (self._costs.hop[:, :, k, c] + self._costs.fixed)[pair], busy
        mine = space.parts[last, :, level.into[rows], k, level.start[rows], c]  # [label, r]
        theirs = space.parts[group, :, k, out, c, end]  # [head, q]
        hop = np.zeros((len(rows), len(group)))
        busy = np.zeros_like(hop)
        for r in range(members.shape[1]):
            for q in range(members.shape[1]):
                pair = np.ix_(members[last, r], members[group, q])
                part = mine[:, r, None] * theirs[None, :, q]
                here = part * self._costs.hop[:, :, k, c][pair] + self._costs.fixed[pair]
                hop = self._costs.join(hop, here)
                busy = np.maximum(busy, part * space.links_s[:, :, k, c][pair] + space.loads_s[pair])
        return hop, busy

    def _least(self, level: Level, rows: NDArray[np.intp]) -> float:
        """What these labels have added up at least, the prices of their nodes included."""
        if not self._costs.additive:
            return 0.0
        return float((level.value[rows] + self._relaxed.paid(level.used[rows])).min()) + self._relaxed.all_prices

    def _undominated(self, level: Level) -> NDArray[np.intp]:
        """The best of those that are alike from here on."""
        space = self._space
        size = space.blocks + 1
        key = (level.group * size + level.end) * len(space.codecs) + level.out
        if space.parts is not None:
            replicated = (space.mask[level.group] & (space.mask[level.group] - 1)) != 0
            key = (key * size + np.where(replicated, level.start, 0)) * len(space.codecs)
            key = key + np.where(replicated, level.into, 0)
        order = np.lexsort((level.value, key, level.used))
        same = (np.diff(key[order]) == 0) & (np.diff(level.used[order]) == 0)
        kept: NDArray[np.intp] = order[np.concatenate([[True], ~same])[: len(order)]]
        return kept

    def _trace(self, levels: list[Level], depth: int, row: int) -> tuple[Step, ...]:
        steps: list[Step] = []
        for level in levels[depth::-1]:
            nodes = tuple(dict.fromkeys(int(node) for node in self._space.members[level.group[row]]))
            steps.append(Step(nodes, int(level.start[row]), int(level.end[row]), int(level.into[row])))
            row = int(level.parent[row])
        return tuple(steps[::-1])


def _order(level: Level, spending: Spending | None) -> NDArray[np.intp]:
    """Most promising first; with `spending`, those that spent least beyond what was due."""
    rank = level.best
    if spending is not None:
        nodes, due = spending
        rank = (level.used[:, None] >> np.arange(len(nodes)) & 1) @ nodes - due[level.end]
    found: NDArray[np.intp] = np.argsort(rank, kind="stable")
    return found


def _speed(space: Space) -> Spending:
    """The share of all nodes' speed that each has, and of all work that lies before each cut."""
    seconds = np.array([block.seconds for block in space.model.blocks]).reshape(space.blocks, -1)
    known = np.isfinite(seconds)
    mean = np.where(known, seconds, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    total = np.where(known, seconds, mean[:, None]).sum(axis=0)
    return _shares(1 / np.maximum(total, max(float(total.max(initial=0.0)) * 1e-6, 1e-300)), mean)


def _room(space: Space) -> Spending:
    """The share of all nodes' memory that each has, and of all weights that lie before each cut."""
    room = np.array([max(node.memory_bytes - node.base_bytes, 1) for node in space.problem.nodes], dtype=np.float64)
    weights = np.array([block.weight_bytes for block in space.model.blocks], dtype=np.float64)
    return _shares(room, weights)


def _shares(nodes: Floats, blocks: Floats) -> Spending:
    due = np.concatenate([[0.0], np.cumsum(blocks)])
    return nodes / nodes.sum(), due / due[-1] if due[-1] > 0 else np.linspace(0, 1, len(due))
