"""Why a model has no plan, said as what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .chain import MAX_STATES
from .instance import FORBIDDEN, build, stage_needs
from .lattice import furthest
from .problem import Model, Node


def explain(model: Model, nodes: Sequence[Node], free_bytes: Sequence[int]) -> str:
    """What would have to change; `free_bytes[i]` is what other models leave of node i."""
    if not nodes:
        return f"model '{model.name}': no nodes"
    stuck = _stuck_block(model, nodes, free_bytes)
    if stuck:
        return stuck
    if build(model, nodes, free_bytes, [0.0] * len(nodes)).states > MAX_STATES // 2:
        weights = sum(block.weight_bytes for block in model.blocks)
        room = sum(max(0, free - node.base_bytes) for node, free in zip(nodes, free_bytes, strict=True))
        return f"model '{model.name}': no plan found for {megabytes(weights)} in {megabytes(room)} free on all nodes"
    found = _least_extra(model, nodes, free_bytes)
    if found is None:
        return f"model '{model.name}': more memory on one node does not help; more nodes are needed"
    extra, helped = found
    where = f"any one of {', '.join(helped)}" if len(helped) > 1 else helped[0]
    return f"model '{model.name}' needs {megabytes(extra)} more on {where}"


def megabytes(size: int) -> str:
    """A size in bytes for people, rounded up to a tenth: '310.5 MB'."""
    for unit, name in ((10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{math.ceil(size * 10 / unit) / 10:.10g} {name}"
    return f"{size} B"


def _stuck_block(model: Model, nodes: Sequence[Node], free_bytes: Sequence[int]) -> str | None:
    room = [free - node.base_bytes for node, free in zip(nodes, free_bytes, strict=True)]
    for b, block in enumerate(model.blocks):
        able = [room[i] for i, seconds in enumerate(block.seconds) if not math.isinf(seconds)]
        need = model.stage_bytes(b, b + 1)
        what = f"model '{model.name}': block {block.name} ({megabytes(need)})"
        if not able:
            return f"{what} can run on no node"
        if max(able) < need:
            return f"{what} fits on no node; the roomiest has {megabytes(max(0, max(able)))} left"
    return None


def _least_extra(model: Model, nodes: Sequence[Node], free_bytes: Sequence[int]) -> tuple[int, list[str]] | None:
    """The fewest bytes that one node would need beyond what it has, and the nodes for which they suffice."""
    needs = stage_needs(model)
    sizes = np.unique(needs[needs < FORBIDDEN])
    best, helped = FORBIDDEN, list[str]()
    for members in build(model, nodes, free_bytes, [0.0] * len(nodes)).types:
        first = members[0]
        short = sizes - (free_bytes[first] - nodes[first].base_bytes)
        steps = [int(step) for step in short if 0 < step <= best]
        if not steps or not _fits_with(model, nodes, free_bytes, first, steps[-1]):
            continue
        low, high = 0, len(steps) - 1
        while low < high:
            middle = (low + high) // 2
            if _fits_with(model, nodes, free_bytes, first, steps[middle]):
                high = middle
            else:
                low = middle + 1
        if steps[low] < best:
            best, helped = steps[low], []
        helped += [nodes[i].id for i in members]
    return (best, helped) if helped else None


def _fits_with(model: Model, nodes: Sequence[Node], free_bytes: Sequence[int], node: int, extra: int) -> bool:
    free = [size + extra * (i == node) for i, size in enumerate(free_bytes)]
    instance = build(model, nodes, free, [0.0] * len(nodes))
    return bool(furthest(instance, FORBIDDEN - 1).max() == instance.blocks)
