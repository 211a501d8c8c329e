"""Problem in, better and better solutions out, the last with the best proven bound: the planner's front.

Models that cannot be placed leave the others placed and are infeasible, with a reason; bounds and figures are then
those of the placed ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from stageline.errors import ConfigError

from .baselines import BASELINES, place
from .beam import WORK
from .costs import share_of
from .evaluate import Evaluation, busiest_of, evaluate
from .every import ALL_PLANS, best_of_every
from .joint import Key, better, bound_alone, joint_bound, key_of, plans
from .labels import LABELS
from .parts import Model
from .problem import THROUGHPUT, Problem
from .reason import explain
from .repair import REPAIR, repaired
from .replan import Choice, choose, moves
from .respond import Stages, respond
from .single import WIDTHS, Effort
from .solution import FEASIBLE, INFEASIBLE, OPTIMAL, ModelSolution, Solution, StageAssignment
from .totals import shortfall
from .work import own_peak_s, own_work_s

PROVEN = 1e-12  # relative: a gap below it is rounding

AT_ONCE = ("random", "even", "memory", "ar-mdi")
"""Baselines that take a few milliseconds: what to start from."""

ALGORITHMS = (LABELS,)
"""What `solve` may be held to; by itself it also asks the chain solver, where that applies."""


def solve(problem: Problem, *, algorithm: str | None = None, out_of_time: Callable[[], bool] | None = None) -> Solution:
    """A plan for every model that fits; `solve_s` is left to the caller.

    `out_of_time` is asked now and then and ends the search with the best plan found so far; without it a large
    chain's ends after so much work (`beam.WORK`). Raises `ConfigError` for an algorithm that is none of `ALGORITHMS`.
    """
    *_, last = improve(problem, algorithm=algorithm, out_of_time=out_of_time)
    return last


def improve(
    problem: Problem, *, algorithm: str | None = None, out_of_time: Callable[[], bool] | None = None
) -> Iterator[Solution]:
    """At least one solution: the first soon, each later one better or better proven, the last the one to use.

    Where a running plan has lost nodes the first one mends it, within milliseconds.
    """
    if algorithm not in (None, *ALGORITHMS):
        raise ConfigError(f"algorithm: must be one of {', '.join(ALGORITHMS)}, not '{algorithm}'")
    over = out_of_time or (lambda: False)
    last, told = _rough(problem), False
    if last is not None and problem.current:
        yield _solution(problem, last, Effort(()))  # the search says its word in any case: why a plan is kept, say
    work = WORK if out_of_time is None else math.inf
    for widths in (WIDTHS[:1], WIDTHS):
        effort = Effort(widths, over, algorithm is None, work)
        for found in _states(problem, effort, last):
            state = found if last is None else last.joined(found)
            if not told or last is None or state.better_than(last):
                yield _solution(problem, state, effort)
            last, told = state, True
            if state.proven or over():
                return
    for known in _of_others(problem, [name for name in BASELINES if name not in AT_ONCE], over):
        assert last is not None
        if better(known.key, last.key):
            last = last.joined(known)
            yield _solution(problem, last, effort)


def _rough(problem: Problem) -> _State | None:
    """What is found at once, for want of anything better: the running plan mended, or a baseline's."""
    stages = repaired(problem)
    known = [] if stages is None else [_known(problem, stages, REPAIR)]
    known += [] if known and problem.current else _of_others(problem, AT_ONCE, lambda: False)
    return min(known, key=lambda state: state.key, default=None)


def _of_others(problem: Problem, names: Iterable[str], over: Callable[[], bool]) -> Iterator[_State]:
    """The baselines' plans, those that can run: no search of ours is to end with less."""
    for name in names:
        stages = None if over() else place(problem, name, random.Random(0))
        if stages is not None:
            yield _known(problem, stages, name)


def _known(problem: Problem, stages: Stages, name: str) -> _State:
    return _State(problem, stages, dict.fromkeys(stages, name), {model.name: 0.0 for model in problem.models})


@dataclass(frozen=True)
class _State:
    """The best stages so far, by which algorithm each model's, and what each could have alone at best.

    `proved`: no plan with all models and all that is required is below it.
    """

    problem: Problem
    stages: Stages
    named: Mapping[str, str]
    alone: Mapping[str, float]
    proved: float = 0.0

    @cached_property
    def bound_s(self) -> float:
        placed = [model for model in self.problem.models if model.name in self.stages]
        whole = self.proved if len(placed) == len(self.problem.models) else 0.0
        return max(whole, joint_bound(self.problem, placed, self.alone, enough=self.key.objective_s))

    @cached_property
    def key(self) -> Key:
        return key_of(self.problem, self.stages)

    @property
    def proven(self) -> bool:
        """Whether no search can change anything."""
        settled = len(self.alone) == 1 and not self.stages and self.impossible
        return settled or (self.key.whole and self.key.objective_s <= self.bound_s * (1 + PROVEN))

    @property
    def impossible(self) -> bool:
        """Whether it is proven that no plan has all models: one has no place even alone, or the sum is too much."""
        without = [model.name for model in self.problem.models if model.name not in self.stages]
        return any(math.isinf(self.alone[name]) for name in without) or (
            bool(without) and shortfall(self.problem, self.problem.models, {}) > 0
        )

    def better_than(self, other: _State) -> bool:
        return better(self.key, other.key) or self.bound_s > other.bound_s * (1 + PROVEN)

    def joined(self, other: _State) -> _State:
        """The better of two plans, and the better bounds of both."""
        best = other if better(other.key, self.key) else self
        alone = {name: max(bound, other.alone[name]) for name, bound in self.alone.items()}
        return replace(best, alone=alone, proved=max(self.proved, other.proved))


def _states(problem: Problem, effort: Effort, known: _State | None) -> Iterator[_State]:
    if len(problem.models) == 1:
        model = problem.models[0]
        found = respond(problem, {}, model, effort)
        stages = {model.name: found.stages} if found.stages is not None else {}
        yield _State(problem, stages, {model.name: found.algorithm}, _at_least(problem, {model.name: found.bound}))
        return
    alone = _at_least(problem, {model.name: bound_alone(problem, model, effort).bound for model in problem.models})
    settled = _settled(problem, alone, known, effort) if len(effort.widths) > 1 else None
    if settled is not None:
        yield settled
        if settled.proved:
            return
    bound = joint_bound(problem, problem.models, alone)
    for stages, named in plans(problem, effort, bound):
        yield _State(problem, stages, named, alone)


def _settled(problem: Problem, alone: Mapping[str, float], known: _State | None, effort: Effort) -> _State | None:
    """What looking at all plans comes to, where these are not too many: a better plan, or that there is none."""
    whole = known if known is not None and known.key.whole else None
    target = whole.key.objective_s if whole else math.inf
    found = best_of_every(problem, target, alone, effort.out_of_time)
    if found is None or not (found.stages or whole):
        return None
    if found.stages is None:
        assert whole is not None
        return replace(whole, alone=alone, proved=target if found.complete else 0.0)
    state = _State(problem, found.stages, dict.fromkeys(found.stages, ALL_PLANS), alone)
    return replace(state, proved=state.key.objective_s) if found.complete else state


def _at_least(problem: Problem, alone: Mapping[str, float]) -> dict[str, float]:
    """Bounds no worse than what the work comes to, which is known without any search."""
    plain = problem.objective == THROUGHPUT
    return {
        model.name: max(alone[model.name], own_peak_s(problem, model) if plain else own_work_s(problem, model))
        for model in problem.models
    }


def _solution(problem: Problem, state: _State, effort: Effort) -> Solution:
    choice = choose(problem, state.stages, effort) if effort.widths else Choice(state.stages)
    found = evaluate(problem, choice.stages)
    broken = [fault for fault in found.faults if not fault.endswith("has no stages")]
    models = {model.name: _model(problem, state, choice.stages, found, model, effort) for model in problem.models}
    unplaced = [f"{one.reason}" for one in models.values() if one.status == INFEASIBLE]
    lower = min(state.bound_s, found.objective_s)
    gap, lower = _gap(found.objective_s, lower)
    placed = bool(choice.stages)
    moving = moves(problem, choice.stages)
    status = INFEASIBLE if unplaced or broken else FEASIBLE if gap else OPTIMAL
    return Solution(
        status=status,
        objective_s=found.objective_s if placed else None,
        lower_bound_s=lower if placed else None,
        gap=gap if placed else None,
        stages={name: _with_figures(plan, found, name) for name, plan in choice.stages.items()},
        latency_s=max((cost.latency_s for cost in found.models.values()), default=None),
        algorithm=_algorithms(state, choice.stages),
        reason="; ".join([*(unplaced or broken), *([choice.reason] if choice.reason else [])]),
        models=models,
        moves=moving,
        moved_bytes=sum(one.bytes for one in moving),
        load_factor=found.load_factor if placed else None,
        proven=state.impossible if status == INFEASIBLE else None,
    )


def _model(
    problem: Problem, state: _State, stages: Stages, found: Evaluation, model: Model, effort: Effort
) -> ModelSolution:
    if model.name not in stages:
        return ModelSolution(INFEASIBLE, reason=explain(problem, model, state.stages, hurry=effort.out_of_time()))
    cost = found.models[model.name]
    if problem.objective == THROUGHPUT:
        objective = busiest_of(problem, model, stages[model.name], found) / share_of(problem, model)
    else:
        objective = cost.latency_s + cost.wait_s
    gap, lower = _gap(objective, min(state.alone[model.name], objective))
    return ModelSolution(
        status=FEASIBLE if gap else OPTIMAL,
        objective_s=objective,
        lower_bound_s=lower,
        gap=gap,
        latency_s=cost.latency_s,
        algorithm=state.named.get(model.name, ""),
    )


def _gap(objective: float, lower: float) -> tuple[float, float]:
    gap = (objective - lower) / objective if objective > 0 else 0.0
    return (gap, lower) if gap > PROVEN else (0.0, objective)


def _with_figures(plan: Sequence[StageAssignment], found: Evaluation, name: str) -> tuple[StageAssignment, ...]:
    costs = found.models[name].stages if name in found.models else ()
    return tuple(
        replace(stage, compute_s=cost.compute_s, transfer_in_s=cost.transfer_in_s)
        for stage, cost in zip(plan, costs, strict=True)
    )


def _algorithms(state: _State, stages: Stages) -> str:
    used = "+".join(sorted({state.named.get(name, "") for name in stages} - {""}))
    return f"joint({used})" if used and len(state.problem.models) > 1 else used
