"""All plans of every model that may be part of a joint plan below a target: where there are few, the best is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .combine import Combined, Plan, combine
from .costs import weights
from .evaluate import evaluate
from .labels import Level, Search, Step
from .parts import Model
from .problem import THROUGHPUT, Problem
from .respond import own_delay
from .single import assignments, peak_costs
from .space import LONGEST_S, Ints, Others, build_space

ALL_PLANS = "all-plans"
"""What the algorithm is called in a solution."""

MOST = 2000
"""Plans of one model; with more of them nothing is enumerated."""

BEGINNINGS = 20
"""Beginnings of plans that are kept for each plan that there may be."""

Stop = Callable[[], bool]


def best_of_every(problem: Problem, target: float, alone: Mapping[str, float], stop: Stop) -> Combined | None:
    """The best plan for all models together below `target`, out of all that there are; None: too many, or no time.

    `alone`: bounds of the models with all nodes to themselves, as in `joint_bound`.
    """
    counted = weights(problem)
    least = {name: counted[name] * bound for name, bound in alone.items()}
    pools: dict[str, list[Plan]] = {}
    for model in problem.models:
        rest = math.fsum(bound for name, bound in least.items() if name != model.name)
        own = target if problem.objective == THROUGHPUT else (target - rest) * (1 + 1e-9)
        plans = every_plan(problem, model, own, stop)
        if plans is None:
            return None
        pools[model.name] = plans
    return combine(problem, pools, target, stop)


def every_plan(problem: Problem, model: Model, target: float, stop: Stop, most: int = MOST) -> list[Plan] | None:
    """Each plan of `model` whose own part of the objective, with all nodes to itself, is below the target.

    None: there are more than `most`, or no time. Several replicas are left out where one does as well.
    """
    plain = problem.objective == THROUGHPUT
    required = sum(1 << i for i, node in enumerate(problem.nodes) if node.id in model.required)
    replicas = plain or required != 0 or any(node.required for node in problem.nodes)
    space = build_space(problem, model, Others.none(problem), required=required, replicas=replicas)
    if not space.complete:
        return None
    space = replace(space, before=np.zeros_like(space.before))  # to other models equal nodes may be unequal
    costs = peak_costs(space) if plain else own_delay(space, {}, evaluate(problem, {}))
    found = _Every(space, costs, target if plain else math.inf).below(target, most, stop)
    return None if found is None else [assignments(space, steps) for steps in found]


class _Every(Search):
    """A label search that keeps what others dominate: beside other models it may do better."""

    def _undominated(self, level: Level) -> NDArray[np.intp]:
        return np.arange(len(level.value))

    def _extend(self, level: Level, rows: NDArray[np.intp], heads: tuple[Ints, Ints, Ints], target: float) -> Level:
        grown = super()._extend(level, rows, heads, target)
        self._made += len(grown.value)
        return grown

    def below(self, target: float, most: int, stop: Stop) -> list[tuple[Step, ...]] | None:
        """Every plan below `target`."""
        blocks, required = self._space.blocks, self._space.required
        target = min(target, LONGEST_S)
        levels, found = [self._first(target)], list[tuple[Step, ...]]()
        self._made = len(levels[0].value)

        def over() -> bool:
            return self._made > BEGINNINGS * most or stop()

        while len(levels[-1].value):
            level = levels[-1]
            done = np.nonzero((level.end == blocks) & (level.used & required == required))[0]
            if len(found) + len(done) > most:
                return None
            found += [self._trace(levels, len(levels) - 1, int(row)) for row in done]
            rows = np.nonzero(level.end < blocks)[0]
            grown, lost = self._grow(level, rows, target, (BEGINNINGS * most, None, over))
            if math.isfinite(lost):
                return None
            levels.append(grown)
        return found
