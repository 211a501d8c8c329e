"""What others do, as baselines to compare with: named after whom they follow, written from the papers' descriptions.

Each takes one model at a time, in the problem's order, on the memory that earlier ones leave. None proves anything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from stageline_coordinator.planner.evaluate import evaluate
from stageline_coordinator.planner.problem import Problem
from stageline_coordinator.planner.solution import StageAssignment

from . import pipeedge, proportional, seifer
from .setting import Run, Setting

Placed = dict[str, tuple[StageAssignment, ...]]
Method = Callable[[Setting, random.Random], list[Run] | None]

BASELINES: Mapping[str, Method] = {
    "random": seifer.anywhere,
    "seifer-greedy": seifer.greedy,
    "seifer-kpath": seifer.kpath,
    "pipeedge": pipeedge.by_devices,
    "pipeedge-links": pipeedge.by_links,
    "even": proportional.even,
    "memory": proportional.by_memory,
    "ar-mdi": proportional.by_rate,
}

__all__ = ["BASELINES", "Placed", "place"]


def place(problem: Problem, name: str, rng: random.Random) -> Placed | None:
    """The stages that baseline `name` finds; None if none that can run: some ignore the gateway's links."""
    free = [node.memory_bytes - node.base_bytes for node in problem.nodes]
    found: Placed = {}
    for model in problem.models:
        runs = BASELINES[name](Setting(problem, model, tuple(free)), rng)
        if runs is None:
            return None
        for start, end, node in runs:
            free[node] -= model.stage_bytes(start, end)
        found[model.name] = tuple(StageAssignment((start, end), (problem.nodes[node].id,)) for start, end, node in runs)
    return None if evaluate(problem, found).faults else found
