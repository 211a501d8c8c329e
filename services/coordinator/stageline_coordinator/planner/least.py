"""Among the plans that a search has found, the one with the smallest sum of compute; always the same one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .instance import FORBIDDEN, Instance, Ints
from .masks import Bools, Moves, unpack
from .search import Found, Indices, Level, Run, finals

MAX_CELLS = 20_000_000  # cells of the largest table; about half a second


@dataclass(frozen=True)
class _Stage:
    """States of one level that lie on a plan: `row[i]`, last node of type `kind[i]`, at the cuts `ends[i, c]`.

    Step e goes from state `origin[e]` of the stage before to state `to[e]` of this one.
    """

    row: Indices
    kind: Indices
    ends: Bools
    origin: Indices
    to: Indices


def least_compute(instance: Instance, allowed: Moves, found: Found, *, max_cells: int = MAX_CELLS) -> tuple[Run, ...]:
    """The plan; the search's own, where the tables would have more than `max_cells` cells."""
    assert found.plan is not None
    stages = _on_plans(instance, allowed, found.levels, max_cells)
    if stages is None:
        return found.plan
    spent = np.where(allowed.runs, instance.spent, FORBIDDEN)
    sums: list[Ints] = []
    for j, stage in enumerate(stages):
        starts = _first(stage, allowed.cuts) if j == 0 else _starts(allowed, stages[j - 1], stage, sums[-1])
        sums.append(_ends(stage, starts, spent))
    return _trace(allowed, stages, sums, spent)


def _on_plans(instance: Instance, allowed: Moves, levels: tuple[Level, ...], max_cells: int) -> list[_Stage] | None:
    """From the last level back, what leads to the end of the chain."""
    row, kind = finals(instance, allowed, levels[-1]).T
    ends = np.zeros((len(row), allowed.cuts), dtype=bool)
    ends[:, -1] = True
    stages: list[_Stage] = []
    for j in range(len(levels) - 1, 1, -1):
        parent = levels[j].parents[row, kind]
        if len(row) * len(instance.types) * allowed.cuts > max_cells:
            return None
        starts = _before(allowed, kind, ends)
        reached = unpack(np.moveaxis(levels[j - 1].ends[:, parent], 0, -1), allowed.cuts)  # [state, t, c]
        reached &= starts[:, None, :] & allowed.crossing.transpose(1, 0, 2)[kind]
        to, previous = np.nonzero(reached.any(axis=2))
        states, origin = np.unique(parent[to] * len(instance.types) + previous, return_inverse=True)
        stages.append(_Stage(row, kind, ends, origin, to))
        row, kind = np.divmod(states, len(instance.types))
        ends = np.zeros((len(states), allowed.cuts), dtype=bool)
        np.logical_or.at(ends, origin, reached[to, previous])
    nowhere = np.zeros(0, dtype=np.intp)
    stages.append(_Stage(row, kind, ends, nowhere, nowhere))
    return stages[::-1]


def _before(allowed: Moves, kind: Indices, ends: Bools) -> Bools:
    """`[i, c]`: whether a node of type `kind[i]` that starts at cut c can end at one of `ends[i]`."""
    found = np.zeros_like(ends)
    for t in np.unique(kind):
        rows = kind == t
        found[rows] = ends[rows].astype(np.float32) @ allowed.runs[t].T.astype(np.float32) > 0
    return found


def _first(stage: _Stage, cuts: int) -> Ints:
    starts = np.full((len(stage.row), cuts), FORBIDDEN, dtype=np.int64)
    starts[:, 0] = 0
    return starts


def _starts(allowed: Moves, before: _Stage, stage: _Stage, sums: Ints) -> Ints:
    """`[i, c]`: the least compute of a plan that hands over to state i at cut c."""
    starts = np.full((len(stage.row), allowed.cuts), FORBIDDEN, dtype=np.int64)
    crossing = allowed.crossing[before.kind[stage.origin], stage.kind[stage.to]]
    np.minimum.at(starts, stage.to, np.where(crossing, sums[stage.origin], FORBIDDEN))
    return starts


def _ends(stage: _Stage, starts: Ints, spent: Ints) -> Ints:
    """`[i, c]`: the least compute of a plan that ends at cut c in state i, where it lies on a plan."""
    found = np.full_like(starts, FORBIDDEN)
    wanted = np.nonzero(stage.ends.any(axis=0))[0]
    for t in np.unique(stage.kind):
        rows = np.nonzero(stage.kind == t)[0]
        best = np.full((len(rows), len(wanted)), FORBIDDEN, dtype=np.int64)
        for a in np.nonzero((starts[rows] < FORBIDDEN).any(axis=0))[0]:
            np.minimum(best, starts[rows, a, None] + spent[t, a, wanted], out=best)
        found[np.ix_(rows, wanted)] = best
    return np.where(stage.ends, np.minimum(found, FORBIDDEN), FORBIDDEN)


def _trace(allowed: Moves, stages: list[_Stage], sums: list[Ints], spent: Ints) -> tuple[Run, ...]:
    state, end = int(sums[-1][:, -1].argmin()), allowed.cuts - 1
    runs: list[Run] = []
    for j in range(len(stages) - 1, 0, -1):
        stage = stages[j]
        kind, steps = int(stage.kind[state]), np.nonzero(stage.to == state)[0]
        origins = stage.origin[steps]
        crossing = allowed.crossing[stages[j - 1].kind[origins], kind]
        via: NDArray[np.int64] = np.where(crossing, sums[j - 1][origins], FORBIDDEN) + spent[kind, :, end]
        step, start = np.unravel_index(int(via.argmin()), via.shape)
        runs.append((int(start), end, kind))
        state, end = int(origins[step]), int(start)
    return ((0, end, int(stages[0].kind[state])), *runs[::-1])
