"""One model on the nodes, as the baselines see it: where blocks fit, and how fast the links are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from stageline_coordinator.planner.parts import Model
from stageline_coordinator.planner.problem import Problem
from stageline_coordinator.planner.shared import weight_table

Run = tuple[int, int, int]
"""Blocks [start, end) on the node with that index."""


@dataclass(frozen=True)
class Setting:
    """`free[i]`: bytes that node i has for stages; `nodes`: the indices of those that may be used, the source first."""

    problem: Problem
    model: Model
    free: tuple[int, ...]

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        usable = [i for i, node in enumerate(self.problem.nodes) if not node.excluded]
        return tuple(sorted(usable, key=lambda i: self.problem.nodes[i].id != self.model.source))

    @property
    def blocks(self) -> int:
        return len(self.model.blocks)

    def bandwidth(self, a: int, b: int) -> float:
        """Bytes per second from node a to node b; 0: no link."""
        links = self.problem.links
        return math.inf if links is None or a == b else links.bandwidth_bytes_per_s[a][b]

    def need(self, start: int, end: int) -> int:
        """Bytes of the stage [start, end)."""
        return self._weights[start][end] + self._peaks[start][end - start] + self.model.buffer_bytes

    def farthest(self, start: int, memory: int) -> int:
        """The largest end such that [start, end) needs at most `memory` bytes; `start` if not even one block does."""
        end = start
        while end < self.blocks and self.need(start, end + 1) <= memory:
            end += 1
        return end

    def reach(self, start: int, node: int) -> int:
        """The largest end such that the node can hold and run [start, end)."""
        end = self.farthest(start, self.free[node])
        return next((b for b in range(start, end) if math.isinf(self.model.blocks[b].seconds[node])), end)

    def seconds(self, node: int) -> float:
        """The whole model on that node."""
        return self.model.stage_seconds(0, self.blocks, node)

    def slowest_hop(self, cuts: Sequence[int], nodes: Sequence[int]) -> float:
        """SEIFER's objective: the largest transfer, cut k being crossed between nodes k and k + 1. Seconds."""
        hops = zip(cuts, nodes, nodes[1:], strict=False)
        return max((_over(self.model.cuts_bytes[cut], self.bandwidth(a, b)) for cut, a, b in hops), default=0.0)

    @cached_property
    def _weights(self) -> list[list[int]]:
        found: list[list[int]] = weight_table(self.model).tolist()
        return found

    @cached_property
    def _peaks(self) -> list[list[int]]:
        """`[start][length]`: the largest workspace of so many blocks from `start` on."""
        return [list(self._running_peak(start)) for start in range(self.blocks + 1)]

    def _running_peak(self, start: int) -> Iterator[int]:
        peak = 0
        yield peak
        for block in self.model.blocks[start:]:
            peak = max(peak, block.workspace_bytes)
            yield peak


def chain(bounds: Sequence[int], nodes: Sequence[int]) -> list[Run]:
    """Stages from `bounds` (0, cuts, number of blocks) on nodes in order; empty ones are left out."""
    spans = zip(bounds, bounds[1:], nodes, strict=False)
    return [(start, end, node) for start, end, node in spans if start < end]


def _over(count: int, bandwidth: float) -> float:
    return count / bandwidth if bandwidth > 0 else math.inf
