"""SEIFER (arXiv 2210.12218, 2210.12219): cuts that transfer least in sum, then nodes for the fastest links.

SEIFER minimises the slowest transfer between two partitions; it looks neither at compute nor at the gateway's links,
and knows one memory capacity. On nodes of unequal memory we try each capacity that a node has, with the nodes of at
least that much, and keep what SEIFER's own objective likes best, so it is not held up by the smallest node. Memory is
that of the problem, so that its plans can run here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

from .paths import class_matching, order_of
from .setting import Run, Setting, chain

CLASSES = (2, 5, 8, 11, 14, 17, 20)

TRIES = 100

Place = Callable[[Setting, Sequence[int], Sequence[int]], Iterator[list[int]]]
"""Nodes for the stages between cuts, in several ways."""


def greedy(setting: Setting, rng: random.Random) -> list[Run] | None:
    """Greedy joint: from every start to the unused neighbour of highest bandwidth, again and again; the best start."""
    return _best(setting, _walks)


def kpath(setting: Setting, rng: random.Random) -> list[Run] | None:
    """K-path class matching, with 2 to 20 classes of transfers."""

    def place(setting: Setting, cuts: Sequence[int], nodes: Sequence[int]) -> Iterator[list[int]]:
        for order in dict.fromkeys(order_of(setting, cuts, classes) for classes in CLASSES):
            found = class_matching(setting, cuts, nodes, order, rng)
            if found is not None:
                yield found

    return _best(setting, place)


def anywhere(setting: Setting, rng: random.Random) -> list[Run] | None:
    """Random: a random cut within what the next random node can hold; the first of many tries that reaches the end."""
    for _ in range(TRIES):
        nodes, runs, start = list(setting.nodes), list[Run](), 0
        rng.shuffle(nodes)
        for node in nodes:
            reach = setting.reach(start, node)
            linked = not runs or setting.bandwidth(runs[-1][2], node) > 0
            if start < reach and linked:
                runs.append((start, rng.randint(start + 1, reach), node))
                start = runs[-1][1]
            if start == setting.blocks:
                return runs
    return None


def least_cuts(setting: Setting, capacity: int, most: int) -> list[int] | None:
    """Where to cut for the least sum of the cuts' bytes, with at most `most` segments within `capacity` bytes."""
    size, cost = setting.blocks, setting.model.cuts_bytes
    reach = [setting.farthest(start, capacity) for start in range(size)]
    best: list[tuple[float, list[int]] | None] = [(0.0, []), *[None] * size]
    done = best[size]
    for _ in range(most):
        after: list[tuple[float, list[int]] | None] = [None] * (size + 1)
        for start in range(size):
            here = best[start]
            if here is None:
                continue
            spent, cuts = (here[0] + cost[start], [*here[1], start]) if start else here
            for end in range(start + 1, reach[start] + 1):
                known = after[end]
                if known is None or spent < known[0]:
                    after[end] = (spent, cuts)
        best, last = after, after[size]
        if last is not None and (done is None or last[0] < done[0]):
            done = last
    return None if done is None else done[1]


def _best(setting: Setting, place: Place) -> list[Run] | None:
    best: list[Run] | None = None
    slowest = math.inf
    for capacity in sorted({setting.free[i] for i in setting.nodes}):
        nodes = [i for i in setting.nodes if setting.free[i] >= capacity and not math.isinf(setting.seconds(i))]
        cuts = least_cuts(setting, capacity, len(nodes))
        for placed in place(setting, cuts, nodes) if cuts is not None else ():
            found = setting.slowest_hop(cuts or (), placed)
            if found < slowest:
                best, slowest = chain([0, *(cuts or ()), setting.blocks], placed), found
    return best


def _walks(setting: Setting, cuts: Sequence[int], nodes: Sequence[int]) -> Iterator[list[int]]:
    for first in nodes:
        walk = [first]
        while len(walk) <= len(cuts):
            left = [node for node in nodes if node not in walk]
            walk.append(max(left, key=lambda node: setting.bandwidth(walk[-1], node)))
        yield walk
