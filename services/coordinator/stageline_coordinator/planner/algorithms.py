"""The planner and the baselines under one name each, for the command line and the benchmark."""

from __future__ import annotations

import random
from collections.abc import Callable

from stageline.errors import ConfigError

from .baselines import BASELINES, Placed, place
from .evaluate import evaluate
from .problem import Problem
from .replan import moves
from .solution import FEASIBLE, INFEASIBLE, ModelSolution, Solution, StageAssignment
from .solve import ALGORITHMS as PARTS
from .solve import solve

OURS = "auto"
NAMES = (OURS, "exact", *PARTS, *BASELINES)
"""The planner under both of its names, its parts alone, the baselines."""

COMPARED = (OURS, *BASELINES)


def check_name(name: str) -> None:
    """Raises `ConfigError` if there is no such algorithm."""
    if name not in NAMES:
        raise ConfigError(f"no algorithm '{name}': known are {', '.join(NAMES)}")


def run(problem: Problem, name: str, *, seed: int = 0, out_of_time: Callable[[], bool] | None = None) -> Solution:
    """The plan of that algorithm. `solve_s` is left to the caller, who has a clock.

    `seed` decides the dice of the baselines that throw any; `out_of_time` ends the planner's search, with the best
    plan found so far. Raises `ConfigError` if there is no such algorithm.
    """
    check_name(name)
    if name not in BASELINES:
        return solve(problem, algorithm=name if name in PARTS else None, out_of_time=out_of_time)
    placed = place(problem, name, random.Random(seed))
    if placed is None:
        return Solution(
            INFEASIBLE, algorithm=name, reason=f"{name} finds no plan that can run on these nodes", proven=False
        )
    return _describe(problem, name, placed)


def _describe(problem: Problem, name: str, placed: Placed) -> Solution:
    """With the figures of `evaluate`, and no bound: a baseline proves none."""
    found = evaluate(problem, placed)
    latencies = {model: cost.latency_s for model, cost in found.models.items()}
    moving = moves(problem, placed)
    return Solution(
        status=FEASIBLE,
        objective_s=found.objective_s,
        stages={
            model: tuple(
                StageAssignment(stage.blocks, stage.nodes, stage.codec, cost.compute_s, cost.transfer_in_s)
                for stage, cost in zip(stages, found.models[model].stages, strict=True)
            )
            for model, stages in placed.items()
        },
        latency_s=max(latencies.values(), default=None),
        algorithm=name,
        models={model: ModelSolution(FEASIBLE, latency_s=s, algorithm=name) for model, s in latencies.items()},
        moves=moving,
        moved_bytes=sum(move.bytes for move in moving),
        load_factor=found.load_factor,
    )
