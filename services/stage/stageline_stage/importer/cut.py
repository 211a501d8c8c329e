"""Where to cut a graph: between heavy calls, at the points where few values are live.

A point is numbered by how many calls lie before it. In every gap between two heavy calls the cheapest point is a
candidate. A candidate stays if no cheaper neighbour can be reached without passing a point with more
live tensors: that keeps the ends of residual blocks and drops their insides. Pieces that are still large get the
cheapest points inside them as well; trivially small pieces join their neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import fx

from stageline.errors import ModelImportError
from stageline_stage.importer.flops import HEAVY, call_flops
from stageline_stage.importer.places import telling
from stageline_stage.importer.recompute import Recompute
from stageline_stage.importer.shapes import Symbols, memory_order, scalar_kind
from stageline_stage.importer.views import packet

LARGE_PIECE = 1 / 8
SMALL_PIECE = 1 / 500


@dataclass(frozen=True)
class Point:
    """A place to cut: after `position` calls, where `live` values (inputs included) cross, in order."""

    position: int
    live: tuple[fx.Node, ...]
    tensors: int
    nbytes: int


def calls_of(graph: fx.Graph) -> list[fx.Node]:
    """The calls in the order of execution."""
    return [node for node in graph.nodes if node.op == "call_function"]


def _flops(node: fx.Node, symbols: Symbols) -> int:
    with telling(node):
        try:
            return call_flops(node, symbols)
        except ModelImportError as error:
            raise ModelImportError(f"{node.target} cannot be cut: {error.message}") from None


class Cutter:
    """Chooses cut points for one graph."""

    def __init__(self, graph: fx.Graph, symbols: Symbols) -> None:
        self.calls = calls_of(graph)
        self.flops = [_flops(node, symbols) for node in self.calls]
        self._symbols = symbols
        self._index = {node: i for i, node in enumerate(self.calls)}
        self._recompute = Recompute(self.calls, symbols)
        kept = [node for node in self.calls if node not in self._recompute.values]
        self._values = [*graph.find_nodes(op="placeholder", sort=True), *kept]
        self._last_use = self._uses(graph)
        self._weights = [self._new_weight_bytes(node) for node in self.calls]

    def _uses(self, graph: fx.Graph) -> dict[fx.Node, int]:
        last = dict.fromkeys(self._values, -1)
        for user in graph.nodes:
            if user in self._recompute.values or user.op not in ("call_function", "output"):
                continue
            for arg in user.all_input_nodes:
                for source in self._recompute.sources(arg):
                    if source in last:
                        last[source] = max(last[source], self._index.get(user, len(self.calls)))
        return last

    def _new_weight_bytes(self, node: fx.Node) -> int:
        weights = [arg for arg in node.all_input_nodes if arg.op == "get_attr"]
        return sum(self._symbols.nbytes(arg.meta.get("val")) for arg in weights)

    def flops_of(self, calls: Sequence[fx.Node]) -> int:
        """Operations of some of the calls, for one item at nominal sizes."""
        return sum(self.flops[self._index[node]] for node in calls)

    def live(self, position: int) -> tuple[fx.Node, ...]:
        """The values defined before a point and used after it."""
        return tuple(node for node in self._values if self._index.get(node, -1) < position <= self._last_use[node])

    def calls_between(self, start: int, end: int) -> list[fx.Node]:
        """The calls that a block over positions [start, end) makes, in order."""
        return sorted(self._recompute.with_cones(self.calls[start:end]), key=self._index.__getitem__)

    def points(self) -> list[int]:
        """The chosen positions, ascending, without the two ends."""
        heavy = [i for i, node in enumerate(self.calls) if packet(node) in HEAVY]
        gaps = [self._cheapest(a + 1, b) for a, b in pairwise(heavy)]
        candidates = [point for point in gaps if point is not None]
        kept = [p for i, p in enumerate(candidates) if not _rolls_down(candidates, i)]
        positions = self._refine(sorted({p.position for p in kept}), candidates)
        return self._merge_small(positions)

    def _cheapest(self, first: int, last: int) -> Point | None:
        points = [self._point(position) for position in range(first, last + 1)]
        usable = [point for point in points if point is not None]
        return min(usable, key=lambda p: (p.tensors, p.nbytes, -p.position), default=None)

    def _point(self, position: int) -> Point | None:
        live = self.live(position)
        values = [node.meta.get("val") for node in live]
        if any(not isinstance(v, torch.Tensor) and scalar_kind(v) is None for v in values):
            return None
        if any(isinstance(v, torch.Tensor) and memory_order(v) is None for v in values):
            return None
        tensors = sum(isinstance(v, torch.Tensor) for v in values)
        return Point(position, live, tensors, sum(self._symbols.nbytes(v) for v in values))

    def _refine(self, positions: list[int], candidates: Sequence[Point]) -> list[int]:
        total = sum(self.flops)
        chosen = list(positions)
        pending = list(zip([0, *chosen], [*chosen, len(self.calls)], strict=True))
        while pending:
            start, end = pending.pop()
            inside = [p for p in candidates if start < p.position < end]
            if not inside or sum(self.flops[start:end]) <= LARGE_PIECE * total:
                continue
            best = min(inside, key=lambda p: (p.nbytes, abs(2 * p.position - start - end)))
            chosen.append(best.position)
            pending += [(start, best.position), (best.position, end)]
        return sorted(chosen)

    def _merge_small(self, positions: list[int]) -> list[int]:
        flops, weights = sum(self.flops), sum(self._weights)
        kept: list[int] = []
        start = 0
        for i, end in enumerate([*positions, len(self.calls)]):
            small = sum(self.flops[start:end]) <= SMALL_PIECE * flops
            small = small and sum(self._weights[start:end]) <= SMALL_PIECE * weights
            if i < len(positions) and not small:
                kept.append(end)
                start = end
            elif i == len(positions) and small and kept:
                kept.pop()
        return kept


def _rolls_down(points: Sequence[Point], start: int) -> bool:
    """Whether fewer live tensors can be had nearby without passing more of them."""
    count = points[start].tensors
    for step in (-1, 1):
        i = start + step
        while 0 <= i < len(points) and points[i].tensors <= count:
            if points[i].tensors < count:
                return True
            i += step
    return False
