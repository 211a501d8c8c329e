"""One chain on the nodes as integer tables: exact sums, exact ties, equal nodes merged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import Model, Node

Ints = NDArray[np.int64]
FORBIDDEN = 1 << 60
_DIGITS = 15  # decimal digits kept of the largest total: 0.1 + 0.2 and 0.3 are the same number of quanta


@dataclass(frozen=True)
class Instance:
    """`cost[t, a, b]`: quanta that blocks [a, b) take on a node of type t, its earlier load included.

    FORBIDDEN where a ≥ b, where the memory does not suffice, or where the node cannot run one of the blocks.
    Non-decreasing in b and, for a < b, non-increasing in a. One quantum is 1 / `scale` seconds.
    """

    cost: Ints
    load: Ints
    types: tuple[tuple[int, ...], ...]
    scale: float

    @property
    def blocks(self) -> int:
        return int(self.cost.shape[1]) - 1

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(members) for members in self.types)

    @property
    def states(self) -> int:
        """How many multisets of node types there are."""
        return math.prod(count + 1 for count in self.counts)

    def reversed(self) -> Instance:
        """The same chain from its end to its start."""
        cost = np.ascontiguousarray(self.cost[:, ::-1, ::-1].transpose(0, 2, 1))
        return Instance(cost, self.load, self.types, self.scale)

    def candidates(self) -> Ints:
        """Every value that the largest stage can have, ascending, from what the hardest block needs on."""
        hardest = max(int(self.cost[:, b, b + 1].min()) for b in range(self.blocks))
        values = np.unique(self.cost)
        return values[(values >= hardest) & (values < FORBIDDEN)]

    def reach(self, bound: int) -> Ints:
        """`[t, a]`: the largest b such that a node of type t takes blocks [a, b) within `bound` (a: none)."""
        found: Ints = np.arange(self.blocks + 1) + (self.cost <= bound).sum(axis=2)
        return found


def build(
    model: Model,
    nodes: Sequence[Node],
    free_bytes: Sequence[int],
    load_s: Sequence[float],
    *,
    merge_equal: bool = True,
) -> Instance:
    """Tables for one model, given the memory and the seconds that other models leave of each node."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, node in enumerate(nodes):
        seconds = tuple(block.seconds[i] for block in model.blocks)
        key = (free_bytes[i] - node.base_bytes, load_s[i], seconds)
        groups.setdefault(key if merge_equal else (i,), []).append(i)
    types = tuple(tuple(members) for members in groups.values())
    scale = _scale(model, load_s)
    load = np.array([round(load_s[t[0]] * scale) for t in types], dtype=np.int64)
    need = stage_needs(model)
    cost = np.empty((len(types), *need.shape), dtype=np.int64)
    for row, members in enumerate(types):
        first = members[0]
        ok = need <= free_bytes[first] - nodes[first].base_bytes
        cost[row] = _times(model, first, scale, int(load[row]), ok)
    return Instance(cost, load, types, scale)


def stage_needs(model: Model) -> Ints:
    """`[a, b]`: bytes of the stage [a, b), the node's base not included; FORBIDDEN where a ≥ b."""
    size = len(model.blocks)
    weights = np.cumsum([0] + [block.weight_bytes for block in model.blocks])
    workspace = np.array([block.workspace_bytes for block in model.blocks], dtype=np.int64)
    need = np.full((size + 1, size + 1), FORBIDDEN, dtype=np.int64)
    for a in range(size):
        largest = np.maximum.accumulate(workspace[a:])
        need[a, a + 1 :] = weights[a + 1 :] - weights[a] + largest + model.buffer_bytes
    return need


def _times(model: Model, node: int, scale: float, load: int, ok: NDArray[np.bool_]) -> Ints:
    seconds = [block.seconds[node] for block in model.blocks]
    able = [not math.isinf(s) for s in seconds]
    quanta = [round(s * scale) if runs else 0 for s, runs in zip(seconds, able, strict=True)]
    total = np.cumsum([0, *quanta])
    unable = np.cumsum([0] + [not runs for runs in able])
    allowed = ok & (unable[None, :] == unable[:, None])
    found: Ints = np.where(allowed, load + total[None, :] - total[:, None], FORBIDDEN)
    return found


def _scale(model: Model, load_s: Sequence[float]) -> float:
    slowest = (max((s for s in block.seconds if not math.isinf(s)), default=0.0) for block in model.blocks)
    total = math.fsum(slowest) + max(load_s, default=0.0)
    if total <= 0:
        return 1.0
    return float(10.0 ** min(_DIGITS - math.ceil(math.log10(total)), 300))
