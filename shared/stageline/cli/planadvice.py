"""What limits a plan and what would help: the clock around `planner.sensitivity`; `planwords` says it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from stageline.cli.plandescribe import Claim, describe_plan, running_stages
from stageline.cli.planfigures import Figures
from stageline_coordinator.planner import Problem, Solution, solve
from stageline_coordinator.planner.changes import Change, everything
from stageline_coordinator.planner.evaluate import Stages
from stageline_coordinator.planner.sensitivity import (
    Gain,
    Outcome,
    at_rest,
    best,
    candidates,
    gain,
    helps,
    judged,
    relative,
)

Trying = Callable[[Change, float], None]
"""Called with each change before it is tried, and the part of all that have been."""

FIRST, EACH = 0.3, 0.05
"""Parts of the time limit that the problem itself may take, and each change of it."""


@dataclass(frozen=True)
class Question:
    """A plan to explain; `stages` None: the best one."""

    title: str
    problem: Problem
    stages: Stages | None = None


@dataclass(frozen=True)
class Answer:
    """`figures`: of the plan that was asked about. Gains are those over the best plan, `best`.

    `better`: how much the best plan gains over the one asked about. `general`: everything of a kind changed at once;
    `gains`: one part, the best first; `losses`: one node lost, the worst first; for lack of time `untried`, or
    solved only in part (`cut`).
    """

    figures: Figures
    problem: Problem
    best: Outcome
    reason: str
    better: float
    general: tuple[Gain, ...]
    gains: tuple[Gain, ...]
    losses: tuple[Gain, ...]
    untried: int
    cut: int

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        plan = self.figures.to_json()
        return {
            "plan": plan if self.figures.chains else {**plan, "objective_s": None},
            "feasible": self.best.solved,
            "reason": self.reason,
            "best_objective_s": self.best.found.objective_s if self.best.solved else None,
            "gain_of_planning_anew": self.better,
            "all_at_once": [_gain_json(one) for one in self.general],
            "changes": [_gain_json(one) for one in self.gains],
            "without": [_gain_json(one) for one in self.losses],
            "untried": self.untried,
            "cut_short": self.cut,
        }


def of_running(problem: Problem) -> Stages | None:
    """The running plan in full, or None."""
    found = running_stages(problem)
    return found if found.keys() == {model.name for model in problem.models} else None


class _Budget:
    """Solves until `limit_s` seconds are over in all. `cut`: how many problems could not be solved to the end."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._end = time.monotonic() + limit_s
        self.cut = 0

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._end

    def first(self, problem: Problem) -> Solution:
        """The plan that all others are compared with."""
        return self._solve(problem, FIRST)

    def again(self, problem: Problem) -> Solution:
        """A plan with a change."""
        return self._solve(problem, EACH)

    def _solve(self, problem: Problem, part: float) -> Solution:
        until = min(self._end, time.monotonic() + self._limit_s * part)
        solution = solve(problem, out_of_time=lambda: time.monotonic() >= until)
        self.cut += time.monotonic() >= until
        return solution


def advise(question: Question, limit_s: float, trying: Trying) -> Answer:
    """Solve the problem again with one change at a time, until about `limit_s` seconds are over."""
    budget = _Budget(limit_s)
    problem = at_rest(question.problem)
    solution = budget.first(problem)
    stages = solution.stages if question.stages is None else question.stages
    asked = judged(problem, stages, "")
    top = best(problem, lambda _: solution, asked)
    general, useless = _general(problem, top, budget)
    wanted = candidates(problem, top, useless)
    found: list[Gain] = []
    for change in wanted:
        if budget.over:
            break
        trying(change, len(found) / len(wanted))
        found.append(gain(problem, top, change, budget.again))
    useful = (one for one in found if one.change.relaxes and helps(one, top))
    lost = (one for one in found if not one.change.relaxes)
    both = asked.solved and top.solved
    return Answer(
        figures=describe_plan(question.title, problem, stages, Claim(solution.lower_bound_s, solution.algorithm)),
        problem=problem,
        best=top,
        reason=solution.reason,
        better=relative(problem, asked.found.objective_s, top.found.objective_s) if both else 0.0,
        general=tuple(general),
        gains=tuple(_merged(sorted(useful, key=lambda one: -(one.gain or 0.0)))),
        losses=tuple(_merged(sorted(lost, key=lambda one: -1.0 if one.gain is None else one.gain))),
        untried=len(wanted) - len(found),
        cut=budget.cut,
    )


def _merged(found: Iterable[Gain]) -> Iterator[Gain]:
    """Gains in that order, with those of nodes that gain the same by the same change told as one."""
    kept: dict[tuple[str, str, int], Gain] = {}
    for one in found:
        named = one.change.kind if len(one.change.names) == 1 else str(one.change.names)
        key = (named, "" if one.gain is None else f"{one.gain:.6f}", one.needs_bytes)
        first = kept.setdefault(key, one)
        if first is not one:
            others = (*first.change.alike, *one.change.names, *one.change.alike)
            kept[key] = replace(first, change=replace(first.change, alike=others))
    yield from kept.values()


def _general(problem: Problem, top: Outcome, budget: _Budget) -> tuple[list[Gain], set[str]]:
    """Everything of a kind changed at once, and the kinds of which no part gains either: no time ran out for these."""
    found, useless = [], set()
    for change in everything(problem):
        cut = budget.cut
        found.append(gain(problem, top, change, budget.again))
        if budget.cut == cut and not helps(found[-1], top):
            useless.add(change.kind)
    return found, useless


def _gain_json(one: Gain) -> dict[str, Any]:
    top = one.outcome.bottleneck if one.outcome.solved else None
    return {
        "change": one.change.kind,
        "names": list(one.change.names),
        "alike": list(one.change.alike),
        "gain": one.gain,
        "feasible": one.outcome.solved,
        "objective_s": one.outcome.found.objective_s if one.outcome.solved else None,
        "needs_bytes": one.needs_bytes,
        "bottleneck": {"kind": top.kind, "names": list(top.names), "busy_s": top.seconds} if top else None,
    }
