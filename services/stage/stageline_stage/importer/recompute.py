"""Values that are cheaper to compute again in each block than to send over a cut: masks, positions, rotations.

Such a value depends on nothing but small inputs and sizes, through cheap calls. An attention mask over
`sequence x sequence` positions, for example, is made from the `sequence` numbers that the client sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from stageline_stage.importer.flops import HEAVY, call_flops
from stageline_stage.importer.shapes import Symbols
from stageline_stage.importer.views import packet

MAX_CALLS, MAX_CONSTANT_BYTES = 200, 1 << 16
MAX_FLOPS_SHARE = 1 / 200


@dataclass(frozen=True)
class _Cone:
    """What a cheap value is made of: the calls, itself included, and the values they start from."""

    calls: frozenset[fx.Node]
    roots: frozenset[fx.Node]


class Recompute:
    """Which values of a graph to compute again, and from what."""

    def __init__(self, calls: Sequence[fx.Node], symbols: Symbols) -> None:
        self._symbols = symbols
        self._flops = {node: call_flops(node, symbols) for node in calls}
        self._budget = sum(self._flops.values()) * MAX_FLOPS_SHARE
        self._cones: dict[fx.Node, _Cone] = {}
        for node in calls:
            cone = self._cone(node)
            if cone is not None:
                self._cones[node] = cone
        self.values = frozenset(node for node in self._cones if self._pays(node))

    def _cone(self, node: fx.Node) -> _Cone | None:
        if packet(node) in HEAVY or packet(node) == "sym_size":
            return None
        calls, roots = {node}, set[fx.Node]()
        for arg in node.all_input_nodes:
            if arg in self._cones:
                calls |= self._cones[arg].calls
                roots |= self._cones[arg].roots
            elif arg.op == "placeholder" or packet(arg) == "sym_size":
                roots.add(arg)
            elif arg.op != "get_attr" or self._symbols.nbytes(arg.meta.get("val")) > MAX_CONSTANT_BYTES:
                return None
        cheap = len(calls) <= MAX_CALLS and sum(self._flops[call] for call in calls) <= self._budget
        return _Cone(frozenset(calls), frozenset(roots)) if cheap else None

    def _pays(self, node: fx.Node) -> bool:
        if any(user.op == "output" for user in node.users):
            return False
        tensors = [r.meta["val"] for r in self._cones[node].roots if isinstance(r.meta.get("val"), torch.Tensor)]
        return sum(map(self._symbols.nbytes, tensors)) < self._symbols.nbytes(node.meta.get("val"))

    def sources(self, node: fx.Node) -> Iterable[fx.Node]:
        """The values that must be at hand where `node` is used."""
        return self._cones[node].roots if node in self.values else (node,)

    def with_cones(self, calls: Iterable[fx.Node]) -> set[fx.Node]:
        """The given calls, except the recomputed ones among them, and all that they need computed again."""
        needed = {node for node in calls if node not in self.values}
        for node in tuple(needed):
            for arg in node.all_input_nodes:
                if arg in self.values:
                    needed |= self._cones[arg].calls
        return needed
