"""How much memory a piece of a graph needs beside its weights, by simulating which values are alive."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from stageline_stage.importer.shapes import Symbols
from stageline_stage.importer.views import is_view


def peak_bytes(
    inputs: Sequence[fx.Node], calls: Sequence[fx.Node], outputs: Sequence[fx.Node], symbols: Symbols
) -> int:
    """Largest sum of bytes of the values alive at once, for one item at nominal sizes; views count nothing.

    An estimate: a kernel's own scratch memory and the allocator's slack are not in it.
    """
    order = {node: i for i, node in enumerate(calls)}
    last_use = {node: len(calls) if node in outputs else _last(node, order) for node in (*inputs, *calls)}
    sizes = {node: 0 if is_view(node) else symbols.nbytes(node.meta.get("val")) for node in (*inputs, *calls)}
    ending: dict[int, list[fx.Node]] = {}
    for node, last in last_use.items():
        ending.setdefault(last, []).append(node)
    alive = sum(sizes[node] for node in inputs)
    peak = alive
    for i, node in enumerate(calls):
        alive += sizes[node]
        peak = max(peak, alive)
        alive -= sum(sizes[done] for done in ending.get(i, ()))
    return peak


def _last(node: fx.Node, order: dict[fx.Node, int]) -> int:
    return max((order[user] for user in node.users if user in order), default=order.get(node, 0))
