"""The groups of nodes that may serve one stage together, and which part of the items each of their nodes takes.

Axes as in `space`: g a group, r its members, k and l codecs, a and b the stage's blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_CELLS = 30_000_000
"""Of the largest array; groups of replicas are left out beyond it."""

LEAST_PART = 1e-20
"""Stands for the share of a replica that has nothing to do: a link that is not there is still noticed."""


def groups_of(busy: Floats, replicas: int) -> tuple[list[tuple[int, ...]], bool]:
    """Up to so many of the nodes that can run anything; whether these are all groups. `busy[i, k, l, a, b]`."""
    useful = [i for i in range(len(busy)) if np.isfinite(busy[i]).any()]
    found: list[tuple[int, ...]] = [(i,) for i in useful] or [(0,)]
    cells = busy[0].size if len(busy) else 1
    for size in range(2, min(replicas, len(useful)) + 1):
        if (len(found) + math.comb(len(useful), size)) * size * cells > MAX_CELLS:
            return found, False
        found += combinations(useful, size)
    return found, True


def shared_out(busy: Floats, groups: Sequence[tuple[int, ...]], most: int, *, idle: bool) -> tuple[Floats, Floats]:
    """`[g, r, ...]`: the members' shares of the items (at most `most`); `[g, ...]`: seconds that each is busy.

    Members that take no time take all items. With them are others that have nothing to do only if `idle`: a group
    without these does as well, unless they are required.
    """
    parts = np.zeros((len(groups), most if most > 1 else 0, *busy.shape[1:]))
    busiest = np.empty((len(groups), *busy.shape[1:]))
    for g, group in enumerate(groups):
        if len(group) == 1:
            busiest[g] = busy[group[0]]
            parts[g, :1] = np.isfinite(busiest[g])
            continue
        costs = busy[list(group)]
        with np.errstate(divide="ignore", invalid="ignore"):
            even = 1 / (1 / costs).sum(axis=0)
            split = even / costs
        free = costs == 0
        some, all_ = free.any(axis=0), free.all(axis=0)
        split = np.where(some, np.where(free, 1 / np.maximum(free.sum(axis=0), 1), LEAST_PART), split)
        usable = np.isfinite(costs).all(axis=0) & (~some | all_ | idle)
        busiest[g] = np.where(usable, np.where(some, 0.0, even), math.inf)
        parts[g, : len(group)] = np.where(usable, split, 0.0)
    return parts, busiest
