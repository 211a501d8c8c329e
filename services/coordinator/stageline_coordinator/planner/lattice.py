"""Every multiset of node types, ordered by size: the state space of the exact planner.

With all nodes different it is the 2**n subsets; equal nodes are interchangeable, so that a type with c nodes
contributes a factor c + 1 instead of 2**c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .instance import Instance, Ints

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Lattice:
    """State 0 is the empty multiset; the state with one node of type t more is `stride[t]` further.

    `levels[j]`: the states with j nodes, ascending. `before[j][i, t]`: the state that `levels[j][i]` is with one
    node of type t less, or `size` where it has none. `rank[state]`: its place in its level.
    """

    size: int
    levels: tuple[Indices, ...]
    before: tuple[Indices, ...]
    rank: Indices


@lru_cache(maxsize=4)
def lattice(counts: tuple[int, ...]) -> Lattice:
    """The lattice for `counts[t]` nodes of each type t."""
    radix = np.array(counts, dtype=np.intp) + 1
    stride = np.concatenate([[1], np.cumprod(radix[:-1])]).astype(np.intp)
    size = int(radix.prod())
    digits = np.arange(size)[:, None] // stride % radix
    order = np.argsort(digits.sum(axis=1), kind="stable")
    ends = np.cumsum(np.bincount(digits.sum(axis=1), minlength=sum(counts) + 1))
    levels = tuple(np.split(order, ends[:-1]))
    before = tuple(np.where(digits[states] > 0, states[:, None] - stride, size) for states in levels)
    rank = np.empty(size, dtype=np.intp)
    for states in levels:
        rank[states] = np.arange(len(states))
    return Lattice(size, levels, before, rank)


def furthest(instance: Instance, bound: int) -> Ints:
    """`[state]`: the longest prefix that the state's nodes serve with every stage within `bound`.

    A longer prefix is never worse (costs do not grow when a stage starts later), so one number per state is
    exact: with S a multiset and u its last node in the chain, g[S] = max over u of reach(u, g[S - u]).
    """
    space = lattice(instance.counts)
    absent = instance.blocks + 1
    reach = np.pad(instance.reach(bound), ((0, 0), (0, 1)))  # reach[t, absent] = 0: no such node
    found = np.full(space.size + 1, absent, dtype=np.int64)
    found[0] = 0
    kinds = np.arange(len(instance.types))
    for states, before in zip(space.levels[1:], space.before[1:], strict=True):
        found[states] = reach[kinds, found[before]].max(axis=1)
    return found[:-1]
