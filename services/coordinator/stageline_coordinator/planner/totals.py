"""Whether the sum of all memory alone proves that there is no plan.

It counts what no plan can do without, and no more: every block once, what blocks share once, for each model the largest
workspace once. It asks for no link, no required node and no source, and lets a block be torn apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .feasible import Run, held_bytes
from .parts import Model
from .problem import Problem

Hosted = Mapping[str, Mapping[str, Sequence[Run]]]


def shortfall(problem: Problem, models: Sequence[Model], hosted: Hosted) -> int:
    """Bytes that all nodes together lack at least for these models; above 0: there is no plan for all of them.

    `hosted`: by node id what other models have there.

    Every node that is used has a stage, with a workspace and buffers of at least `least` bytes. So of a node's room
    only the rest is for weights; and what a model's largest workspace takes beyond `least` comes on top, once.
    """
    if not models:
        return 0
    least = min(_least_workspace(model) for model in models)
    need = sum(_need(model) - least for model in models)
    return need - sum(max(0, room - least) for room in rooms(problem, models, hosted).values())


def rooms(problem: Problem, models: Sequence[Model], hosted: Hosted) -> dict[str, int]:
    """Bytes for these models on each node that may have a stage of one of them, at least one block."""
    smallest = min(_smallest_stage(model) for model in models)
    found = {}
    for i, node in enumerate(problem.nodes):
        room = node.memory_bytes - node.base_bytes - held_bytes(problem.models, hosted.get(node.id, {}))
        if room >= smallest and not node.excluded and any(_able(model, i) for model in models):
            found[node.id] = room
    return found


def _need(model: Model) -> int:
    largest = max(block.workspace_bytes for block in model.blocks)
    return model.weight_bytes(range(len(model.blocks))) + largest + model.buffer_bytes


def _least_workspace(model: Model) -> int:
    return min(block.workspace_bytes for block in model.blocks) + model.buffer_bytes


def _smallest_stage(model: Model) -> int:
    return min(block.weight_bytes + block.workspace_bytes for block in model.blocks) + model.buffer_bytes


def _able(model: Model, node: int) -> bool:
    return any(math.isfinite(block.seconds[node]) for block in model.blocks)
