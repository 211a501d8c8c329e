"""Is there a plan within a bound? Reachability over (set of nodes used, last node, cut), all cuts of a state at once.

One level per number of stages; a row is a set of nodes, with for each last node the cuts where such a plan may end.
Being further along is not always better, as the next cut may be larger: so all cuts are kept. Equal nodes are
interchangeable, so a set says how many of each type. While no level has more than `width` rows the search is
exhaustive, and finding nothing is a proof. Beyond, it keeps the rows whose cheapest way to the end has the lowest
price (see `prices`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .instance import Instance
from .masks import Moves, Words, pack, unpack
from .prices import Guide

Indices = NDArray[np.intp]
Keys = NDArray[np.uint64]
Run = tuple[int, int, int]

UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Level:
    """Partial plans with equally many stages. `used[r, t]`: nodes of each type in row r; `keys[r]` tells rows apart.

    `ends[w, r, t]`: where such plans may end with a node of type t last. `parents[r, t]`: the row in the level
    before that this one is without that last node.
    """

    used: NDArray[np.int16]
    keys: Keys
    ends: Words
    parents: Indices


@dataclass(frozen=True)
class Found:
    """`levels` up to the first that holds a whole plan, or none. `complete`: no row was given up on the way."""

    levels: tuple[Level, ...]
    complete: bool
    plan: tuple[Run, ...] | None


def search(
    instance: Instance,
    allowed: Moves,
    width: int = UNLIMITED,
    guide: Guide | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Found:
    """A plan with the fewest stages among those that the search keeps, if there is one.

    Without a `guide` the width must be UNLIMITED. Stopped, what it has not looked at counts as given up.
    """
    first = _opening(instance, allowed)
    levels, complete, strides = [first], True, _strides(instance.counts)
    starts = np.zeros_like(first.ends)
    starts[0] = allowed.first
    while len(levels[-1].keys):
        fresh, dropped = _next(instance, allowed, levels[-1], starts, strides, width, guide)
        complete &= not dropped
        levels.append(fresh)
        final = finals(instance, allowed, fresh)
        if len(final):
            return Found(tuple(levels), complete, _trace(instance, allowed, levels, final[0]))
        if stop():
            return Found(tuple(levels), False, None)
        starts = _starts(allowed, fresh)
    return Found(tuple(levels), complete, None)


def impassable(instance: Instance, allowed: Moves, block: int, cap: int) -> bool:
    """Whether it is proven that no plan gets from the stage that serves `block` to the end of the chain.

    The search starts from every node that may serve the block, as if no other node had been used yet: so where
    few links carry the cuts that follow it ends soon. It is given up with more than `cap` rows in a level.
    """
    kinds, strides = np.arange(len(instance.types)), _strides(instance.counts)
    ends = np.zeros((allowed.words, len(kinds), len(kinds)), dtype=np.uint64)
    serving = np.logical_or.reduce(allowed.runs[:, : block + 1], axis=1)
    serving[:, : block + 1] = False
    ends[:, kinds, kinds] = np.moveaxis(pack(serving), -1, 0)
    level = Level(np.eye(len(kinds), dtype=np.int16), strides, ends, np.zeros((len(kinds),) * 2, dtype=np.intp))
    while 0 < len(level.keys) <= cap:
        if _whole(instance, allowed, level).any():
            return False
        level, _ = _next(instance, allowed, level, _starts(allowed, level), strides, UNLIMITED, None)
    return len(level.keys) == 0


def finals(instance: Instance, allowed: Moves, level: Level) -> Indices:
    """(row, type) pairs of whole plans that use every required node."""
    must = np.array(instance.must, dtype=bool)
    full = (level.used[:, must] == np.array(instance.counts)[must]).all(axis=1)
    return np.argwhere(_whole(instance, allowed, level) & full[:, None])


def _whole(instance: Instance, allowed: Moves, level: Level) -> NDArray[np.bool_]:
    word, bit = divmod(instance.blocks, 64)
    last: NDArray[np.bool_] = (level.ends[word] >> np.uint64(bit)) & np.uint64(1) > 0
    return last & allowed.last


def _opening(instance: Instance, allowed: Moves) -> Level:
    kinds = len(instance.types)
    ends = np.zeros((allowed.words, 1, kinds), dtype=np.uint64)
    return Level(np.zeros((1, kinds), np.int16), np.zeros(1, np.uint64), ends, np.zeros((1, kinds), np.intp))


def _strides(counts: Sequence[int]) -> Keys:
    """A row's key is Σ used · stride: of mixed radix where that fits in 64 bits, else random."""
    strides, size = [], 1
    for count in counts:
        strides.append(size)
        size *= count + 1
    if size <= 1 << 64:
        return np.array(strides, dtype=np.uint64)
    return np.random.default_rng(0).integers(1 << 64, size=len(counts), dtype=np.uint64)


def _starts(allowed: Moves, level: Level) -> Words:
    """`[w, r, u]`: the cuts at which a node of type u may take over from row r."""
    starts = np.zeros_like(level.ends)
    row, kind = np.nonzero(level.ends.any(axis=0))
    rows, first = np.unique(row, return_index=True)
    for w in range(allowed.words if len(rows) else 0):
        over = level.ends[w, row, kind, None] & allowed.hops[kind, :, w]
        starts[w, rows] = np.bitwise_or.reduceat(over, first, axis=0)
    return starts


def _next(
    instance: Instance,
    allowed: Moves,
    level: Level,
    starts: Words,
    strides: Keys,
    width: int,
    guide: Guide | None,
) -> tuple[Level, bool]:
    """The level with one stage more, and whether rows were left out that may lead to a plan."""
    row, kind = np.nonzero((level.used < np.array(instance.counts)) & starts.any(axis=0))
    ends = allowed.reach(kind, starts[:, row, kind])
    keys = level.keys[row] + strides[kind]
    chosen, dropped = ends.any(axis=0), False
    if guide:
        chosen, dropped = _best(guide, level.used[row], kind, unpack(ends.T, allowed.cuts), keys, width)
    row, kind, ends = row[chosen], kind[chosen], ends[:, chosen]
    keys, first, place = np.unique(keys[chosen], return_index=True, return_inverse=True)
    used = level.used[row[first]]
    used[np.arange(len(keys)), kind[first]] += 1
    fresh_ends = np.zeros((allowed.words, *used.shape), dtype=np.uint64)
    fresh_ends[:, place, kind] = ends
    parents = np.zeros(used.shape, dtype=np.intp)
    parents[place, kind] = row
    return Level(used, keys, fresh_ends, parents), dropped


def _best(
    guide: Guide, used: NDArray[np.int16], kind: Indices, ends: NDArray[np.bool_], keys: Keys, width: int
) -> tuple[NDArray[np.bool_], bool]:
    """Which partial plans to keep: those of the `width` cheapest rows; and whether others had hope."""
    price = guide.price(used, kind, ends)
    hopeful = price <= guide.budget
    rows, place = np.unique(keys, return_inverse=True)
    cheapest = np.full(len(rows), np.inf)
    np.minimum.at(cheapest, place, np.where(hopeful, price, np.inf))
    order = np.argsort(cheapest, kind="stable")
    kept = np.zeros(len(rows), dtype=bool)
    kept[order[:width]] = True
    return kept[place] & hopeful, bool(np.isfinite(cheapest[order[width:]]).any())


def _trace(instance: Instance, allowed: Moves, levels: Sequence[Level], final: Indices) -> tuple[Run, ...]:
    row, kind, end = int(final[0]), int(final[1]), instance.blocks
    runs: list[Run] = []
    for j in range(len(levels) - 1, 1, -1):
        parent = int(levels[j].parents[row, kind])
        before = unpack(levels[j - 1].ends[:, parent].T, allowed.cuts)
        previous, start = np.argwhere(before & allowed.crossing[:, kind] & allowed.runs[kind, :, end])[0]
        runs.append((int(start), end, kind))
        row, kind, end = parent, int(previous), int(start)
    return ((0, end, kind), *runs[::-1])
