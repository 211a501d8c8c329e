"""More different nodes than the exact search can take: a beam search, and a bound that is proven.

The bound: give block b a weight v_b ≥ 0, all weights summing to 1. Within a bottleneck β a node of type t
serves one run, so at most M_t(β), the heaviest run within its memory and β. The whole chain weighs 1, so a β at
which the M_t of all nodes sum to less than 1 is infeasible. It holds for every choice of weights.

The search keeps, for every number of stages, the partial plans that wasted least: a node that serves less than
its M_t wasted the difference. A plan that it finds is a plan; one that it does not find may exist.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .instance import FORBIDDEN, Instance, Ints

WIDTH = 300
_SLACK = 1e-9  # float weights may sum to a little less than 1

Floats = NDArray[np.float64]
Run = tuple[int, int, int]


def search(instance: Instance) -> tuple[list[Run], int] | None:
    """Stages (start, end, node type) and a lower bound in quanta; None where no plan was found."""
    values = instance.candidates()
    measures = _measures(instance)
    low = lower_bound_index(instance, values, measures)
    best = _plan(instance, int(values[-1]), measures)
    if best is None:
        return None
    bound, high = int(values[low]), _index(instance, values, best)
    while low < high:
        middle = (low + high) // 2
        found = _plan(instance, int(values[middle]), measures)
        if found is None:
            low = middle + 1
        else:
            best, high = found, _index(instance, values, found)
    return best, bound


def lower_bound_index(instance: Instance, values: Ints, measures: Floats) -> int:
    """The smallest index of `values` that the bound does not rule out (the last, if it rules out all)."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        served = _heaviest(instance.reach(int(values[middle])), measures) @ np.array(instance.counts)
        if served.min() >= 1 - _SLACK:
            high = middle
        else:
            low = middle + 1
    return low


def _measures(instance: Instance) -> Floats:
    """`[m, c]`: the weight of the first c blocks: by count, by mean seconds, and by each type's own seconds."""
    single = instance.cost[:, np.arange(instance.blocks), np.arange(1, instance.blocks + 1)]
    known = single < FORBIDDEN
    alone = np.where(known, single - instance.load[:, None], 0).astype(np.float64)
    mean = alone.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    own = np.where(known, alone, mean)
    rows = np.vstack([mean, np.ones(instance.blocks), own])
    rows = rows[rows.sum(axis=1) > 0]
    total = np.cumsum(rows / rows.sum(axis=1, keepdims=True), axis=1)
    return np.pad(total / total[:, -1:], ((0, 0), (1, 0)))


def _heaviest(reach: Ints, measures: Floats) -> Floats:
    """`[m, t]`: the heaviest run of a node of type t under each measure."""
    return np.stack([(row[reach] - row).max(axis=1) for row in measures])


@dataclass
class _Level:
    """Partial plans with equally many stages: how far each got, the nodes it used, and where it came from."""

    reach: Ints
    used: Ints
    waste: Floats
    key: NDArray[np.uint64]
    parent: NDArray[np.intp] = field(default_factory=lambda: np.zeros(1, dtype=np.intp))
    kind: NDArray[np.intp] = field(default_factory=lambda: np.zeros(1, dtype=np.intp))


def _plan(instance: Instance, bound: int, measures: Floats) -> list[Run] | None:
    reach = instance.reach(bound)
    for measure in measures[:2]:
        found = _beam(instance, reach, measure)
        if found is not None:
            return found
    return None


def _beam(instance: Instance, reach: Ints, measure: Floats) -> list[Run] | None:
    kinds = len(instance.types)
    salt = np.random.default_rng(0).integers(1 << 63, size=kinds, dtype=np.uint64)
    most = (measure[reach] - measure).max(axis=1)
    zero = np.zeros(1, dtype=np.int64)
    levels = [_Level(zero, np.zeros((1, kinds), dtype=np.int64), np.zeros(1), zero.astype(np.uint64))]
    while len(levels[-1].reach):
        levels.append(_expand(levels[-1], instance, reach, measure, most, salt))
        done = np.nonzero(levels[-1].reach == instance.blocks)[0]
        if len(done):
            return _trace(levels, int(done[0]))
    return None


def _expand(
    level: _Level,
    instance: Instance,
    reach: Ints,
    measure: Floats,
    most: Floats,
    salt: NDArray[np.uint64],
) -> _Level:
    end = reach[:, level.reach].T
    parent, kind = np.nonzero((level.used < np.array(instance.counts)) & (end > level.reach[:, None]))
    to = end[parent, kind]
    waste = level.waste[parent] + most[kind] - (measure[to] - measure[level.reach[parent]])
    few = np.argsort(waste, kind="stable")[: 4 * WIDTH]
    key = level.key[parent[few]] + salt[kind[few]]
    order = np.lexsort((-to[few], key))
    _, first = np.unique(key[order], return_index=True)  # of equal sets of nodes, the one that is furthest
    few = few[np.sort(order[first])][:WIDTH]
    used = level.used[parent[few]]
    used[np.arange(len(few)), kind[few]] += 1
    fresh_key = level.key[parent[few]] + salt[kind[few]]
    return _Level(to[few], used, waste[few], fresh_key, parent[few], kind[few])


def _trace(levels: list[_Level], row: int) -> list[Run]:
    runs: list[Run] = []
    for j in range(len(levels) - 1, 0, -1):
        parent = int(levels[j].parent[row])
        runs.append((int(levels[j - 1].reach[parent]), int(levels[j].reach[row]), int(levels[j].kind[row])))
        row = parent
    return runs[::-1]


def _index(instance: Instance, values: Ints, runs: list[Run]) -> int:
    worst = max(int(instance.cost[kind, start, end]) for start, end, kind in runs)
    return int(np.searchsorted(values, worst))
