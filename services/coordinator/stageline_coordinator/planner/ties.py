"""Among the plans within a bound: the fewest stages, then the smallest sum of compute; always the same one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .instance import FORBIDDEN, Instance, Ints
from .lattice import Lattice, furthest, lattice

MAX_WORK = 1_000_000_000  # additions; about half a second

Run = tuple[int, int, int]


def cheapest(instance: Instance, bound: int, *, max_work: int = MAX_WORK) -> list[Run]:
    """Stages (start, end, node type), all within `bound`, which must be feasible.

    A second DP over (nodes used, cut) minimises the sum. A cut after j of the k stages can only lie between
    what k - j nodes can still finish and what j nodes can reach, which is usually a narrow window.
    """
    space = lattice(instance.counts)
    far = furthest(instance, bound)
    stages = next(j for j, states in enumerate(space.levels) if far[states].max() == instance.blocks)
    back = furthest(instance.reversed(), bound)
    windows = [
        (instance.blocks - int(back[space.levels[stages - j]].max()), int(far[space.levels[j]].max()))
        for j in range(stages + 1)
    ]
    widths = [high - low + 1 for low, high in windows]
    work = sum(space.before[j + 1].size * widths[j] * widths[j + 1] for j in range(stages))
    if work > max_work:
        return _furthest_first(instance, space, far, bound, stages)
    spent = instance.spent
    spent[instance.cost > bound] = FORBIDDEN
    sums = _smallest_sums(space, spent, windows)
    return _trace(space, spent, windows, sums)


def _smallest_sums(space: Lattice, spent: Ints, windows: Sequence[tuple[int, int]]) -> list[Ints]:
    """`[j][i, c]`: the least compute of state `levels[j][i]` serving the prefix that ends at window j's c-th cut."""
    sums = [np.zeros((1, 1), dtype=np.int64)]
    for j in range(len(windows) - 1):
        before = space.before[j + 1]
        new = np.full((len(before), windows[j + 1][1] - windows[j + 1][0] + 1), FORBIDDEN, dtype=np.int64)
        for kind in range(before.shape[1]):
            rows = np.nonzero(before[:, kind] < space.size)[0]
            old = sums[j][space.rank[before[rows, kind]]]
            new[rows] = np.minimum(new[rows], _extend(old, spent[kind], windows[j], windows[j + 1]))
        sums.append(new)
    return sums


def _extend(old: Ints, spent: Ints, start: tuple[int, int], end: tuple[int, int]) -> Ints:
    best = np.full((len(old), end[1] - end[0] + 1), FORBIDDEN, dtype=np.int64)
    for column, a in enumerate(range(start[0], start[1] + 1)):
        allowed = np.nonzero(spent[a, end[0] : end[1] + 1] < FORBIDDEN)[0]
        if len(allowed) == 0 or old[:, column].min() >= FORBIDDEN:
            continue
        cuts = slice(int(allowed[0]), int(allowed[-1]) + 1)  # feasible ends are an interval
        added = old[:, column, None] + spent[a, end[0] : end[1] + 1][cuts]
        np.minimum(best[:, cuts], added, out=best[:, cuts])
    return best


def _trace(space: Lattice, spent: Ints, windows: Sequence[tuple[int, int]], sums: Sequence[Ints]) -> list[Run]:
    stages = len(windows) - 1
    row, end = int(np.argmin(sums[stages][:, -1])), windows[stages][1]
    total = int(sums[stages][row, -1])
    runs: list[Run] = []
    for j in range(stages, 0, -1):
        kind, start = _step(space, spent, windows, sums, j, row, end, total)
        runs.append((start, end, kind))
        row, end, total = (
            int(space.rank[space.before[j][row, kind]]),
            start,
            total - int(spent[kind, start, end]),
        )
    return runs[::-1]


def _step(
    space: Lattice,
    spent: Ints,
    windows: Sequence[tuple[int, int]],
    sums: Sequence[Ints],
    level: int,
    row: int,
    end: int,
    total: int,
) -> tuple[int, int]:
    low, high = windows[level - 1]
    for kind, state in enumerate(space.before[level][row]):
        if state < space.size:
            via = sums[level - 1][space.rank[state]] + spent[kind, low : high + 1, end]
            hits = np.nonzero(via == total)[0]
            if len(hits):
                return kind, low + int(hits[0])
    raise AssertionError("the sums were built from these very steps")


def _furthest_first(instance: Instance, space: Lattice, far: Ints, bound: int, stages: int) -> list[Run]:
    """The fewest stages only: walk back from the end through states that reach far enough."""
    reach = instance.reach(bound)
    state = int(next(s for s in space.levels[stages] if far[s] == instance.blocks))
    end = instance.blocks
    runs: list[Run] = []
    for j in range(stages, 0, -1):
        for kind, previous in enumerate(space.before[j][space.rank[state]]):
            if previous < space.size and reach[kind, far[previous]] >= end:
                start = int(far[previous])
                runs.append((start, end, kind))
                state, end = int(previous), start
                break
    return runs[::-1]
