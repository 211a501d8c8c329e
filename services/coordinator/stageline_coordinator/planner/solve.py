"""Several models on shared nodes: one after another, each solved as a chain on what the earlier ones leave.

The order is decreasing priority, then decreasing work (mean seconds of the whole model over the nodes). A model
sees the memory that is left, and on each node the seconds that earlier models keep it busy for every request of
its own: their stage's seconds times their rate over its rate, or times 1 where a rate is unknown (as many
requests of one as of the other). So a later model goes around a busy node when that pays. This is a greedy
rule: the first model may take what a later one needs more. The reported gap is therefore measured against
what each model could have alone on all nodes, which no joint plan can beat.
"""

from __future__ import annotations

import math

from .chain import ChainPlan, Run, solve_chain
from .problem import Model, Problem
from .reason import explain
from .solution import (
    FEASIBLE,
    INFEASIBLE,
    OPTIMAL,
    STATUSES,
    ModelSolution,
    Solution,
    StageAssignment,
)


def solve(problem: Problem) -> Solution:
    """A plan for every model that fits; `solve_s` is left to the caller."""
    free = [node.memory_bytes for node in problem.nodes]
    runs: dict[str, tuple[Run, ...]] = {}
    plans: dict[str, ChainPlan] = {}
    found: dict[str, ModelSolution] = {}
    for model in _order(problem):
        plan = solve_chain(model, problem.nodes, free, _loads(problem, model, runs))
        if plan is None:
            reason = explain(model, problem.nodes, free)
            taken = f" (beside {', '.join(runs)})" if runs else ""
            found[model.name] = ModelSolution(INFEASIBLE, reason=reason + taken)
            continue
        plans[model.name], runs[model.name] = plan, plan.runs
        for start, end, node in plan.runs:
            free[node] -= model.stage_bytes(start, end)
    first = next(iter(runs), "")
    for model in problem.models:
        if model.name in plans:
            plan = plans[model.name]
            bound = plan if model.name == first else _alone(problem, model) or plan
            found[model.name] = _judge(problem, model, plan, bound, runs)
    return _join(problem, found, runs)


def _order(problem: Problem) -> list[Model]:
    return sorted(problem.models, key=lambda model: (-model.priority, -_work(model)))


def _work(model: Model) -> float:
    known = [[s for s in block.seconds if not math.isinf(s)] for block in model.blocks]
    return math.fsum(math.fsum(seconds) / len(seconds) for seconds in known if seconds)


def _loads(problem: Problem, model: Model, runs: dict[str, tuple[Run, ...]]) -> list[float]:
    """Seconds that the other models keep each node busy for one request of this model."""
    loads = [0.0] * len(problem.nodes)
    for other in problem.models:
        share = _share(other, model)
        for start, end, node in runs.get(other.name, ()) if other is not model else ():
            loads[node] += share * other.stage_seconds(start, end, node)
    return loads


def _share(other: Model, model: Model) -> float:
    if other.rate_per_s is None or model.rate_per_s is None:
        return 1.0
    return other.rate_per_s / model.rate_per_s


def _alone(problem: Problem, model: Model) -> ChainPlan | None:
    free = [node.memory_bytes for node in problem.nodes]
    return solve_chain(model, problem.nodes, free, [0.0] * len(problem.nodes))


def _judge(
    problem: Problem, model: Model, plan: ChainPlan, alone: ChainPlan, runs: dict[str, tuple[Run, ...]]
) -> ModelSolution:
    loads = _loads(problem, model, runs)
    seconds = [model.stage_seconds(*run) for run in plan.runs]
    objective = max(loads[run[2]] + spent for run, spent in zip(plan.runs, seconds, strict=True))
    lower = min(alone.lower_bound_s, objective)
    gap = (objective - lower) / objective if objective > 0 else 0.0
    return ModelSolution(
        status=OPTIMAL if gap == 0 else FEASIBLE,
        objective_s=objective,
        lower_bound_s=lower,
        gap=gap,
        latency_s=math.fsum(seconds),
        algorithm=plan.algorithm,
    )


def _stages(problem: Problem, model: Model, runs: tuple[Run, ...]) -> tuple[StageAssignment, ...]:
    return tuple(
        StageAssignment(
            blocks=(start, end),
            nodes=(problem.nodes[node].id,),
            compute_s=model.stage_seconds(start, end, node),
        )
        for start, end, node in runs
    )


def _join(problem: Problem, found: dict[str, ModelSolution], runs: dict[str, tuple[Run, ...]]) -> Solution:
    models = {model.name: found[model.name] for model in problem.models}
    placed = [one for one in models.values() if one.status != INFEASIBLE]
    objective = max((one.objective_s or 0.0 for one in placed), default=None)
    lower = max((one.lower_bound_s or 0.0 for one in placed), default=None)
    gap = (objective - lower) / objective if objective and lower is not None else (0.0 if placed else None)
    statuses = [FEASIBLE if gap else OPTIMAL, *(s for one in models.values() if (s := one.status) == INFEASIBLE)]
    algorithms = sorted({one.algorithm for one in placed})
    joined = "+".join(algorithms)
    return Solution(
        status=max(statuses, key=STATUSES.index),
        objective_s=objective,
        lower_bound_s=lower,
        gap=gap,
        stages={m.name: _stages(problem, m, runs[m.name]) for m in problem.models if m.name in runs},
        latency_s=max((one.latency_s or 0.0 for one in placed), default=None),
        algorithm=joined if len(models) <= 1 or not joined else f"sequential({joined})",
        reason="; ".join(one.reason for one in models.values() if one.reason),
        models=models,
    )
