"""Coming from a running plan: whether to leave it, for which of the good plans, and what has to be moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .evaluate import evaluate
from .feasible import malformed, running_on
from .labels import NOTHING, TIE, Step, value_of
from .media import whole as busiest
from .parts import Model
from .problem import THROUGHPUT, Problem
from .relax import Costs
from .respond import Stages, must, others_of, own_delay
from .single import Effort, assignments, least
from .solution import Move, StageAssignment
from .space import LONGEST_S, Space, build_space
from .sums import moved_costs

PRICES = 8
"""How many exchange rates between seconds and bytes are tried where a plan's seconds add up."""


@dataclass(frozen=True)
class Choice:
    """The stages to run, and why if they are not simply the best ones found."""

    stages: Stages
    reason: str = ""


def choose(problem: Problem, best: Stages, effort: Effort) -> Choice:
    """The running plan unless the best one is better by more than the threshold; else a near one that is as good."""
    if not problem.current or not best:
        return Choice(best)
    goal = evaluate(problem, best).objective_s
    limit = goal * (1 + problem.replan.tolerance)
    running = current_stages(problem)
    now = evaluate(problem, running)
    if running and not now.faults:
        worth = now.objective_s * (1 - problem.replan.threshold)
        if goal >= worth * (1 - TIE):
            gain = 1 - goal / now.objective_s if now.objective_s else 0.0
            return Choice(running, f"the running plan is kept: the best one found is {max(gain, 0):.1%} better")
        limit = min(limit, worth * (1 - 10 * TIE))
    return Choice(_nearest(problem, best, limit, effort))


def current_stages(problem: Problem) -> Stages:
    """The running plan as stages; empty if it does not serve every model whole."""
    found = {
        name: tuple(
            StageAssignment(one.blocks, one.nodes, one.codec) for one in sorted(stages, key=lambda one: one.blocks)
        )
        for name, stages in problem.current.items()
    }
    return {} if any(malformed(problem, found)) or len(found) < len(problem.models) else found


def moves(problem: Problem, stages: Mapping[str, Sequence[StageAssignment]]) -> tuple[Move, ...]:
    """Each run of blocks whose weights a node has to fetch; none where no plan is running."""
    found: list[Move] = []
    for model in problem.models if problem.current else ():
        for stage in stages.get(model.name, ()):
            for node in stage.nodes:
                held = {b for start, end in running_on(problem, node).get(model.name, []) for b in range(start, end)}
                for run in _gaps(stage.blocks, held):
                    again = held | set(range(*run))
                    found.append(Move(model.name, node, run, model.weight_bytes(again) - model.weight_bytes(held)))
                    held = again
    return tuple(found)


def moved_bytes(problem: Problem, stages: Mapping[str, Sequence[StageAssignment]]) -> int:
    """All that has to be fetched."""
    return sum(one.bytes for one in moves(problem, stages))


def _gaps(blocks: tuple[int, int], held: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for block in range(*blocks):
        if block in held:
            continue
        if found and found[-1][1] == block:
            found[-1] = (found[-1][0], block + 1)
        else:
            found.append((block, block + 1))
    return found


def _nearest(problem: Problem, best: Stages, limit_s: float, effort: Effort) -> Stages:
    """Model by model the stages that move fewest bytes within the limit, until none moves fewer."""
    stages, moved = dict(best), moved_bytes(problem, best)
    gained = True
    while gained and moved and not effort.out_of_time():
        gained = False
        for model in problem.models:
            for plan in _near(problem, stages, model, limit_s, effort) if model.name in stages else ():
                again = {**stages, model.name: plan}
                found, bytes_now = evaluate(problem, again), moved_bytes(problem, again)
                if bytes_now < moved and found.objective_s <= limit_s * (1 + TIE) and not _new_faults(problem, again):
                    stages, moved, gained = again, bytes_now, True
    return stages


def _new_faults(problem: Problem, stages: Stages) -> list[str]:
    return [one for one in evaluate(problem, stages).faults if not one.endswith("has no stages")]


def _near(
    problem: Problem, stages: Stages, model: Model, limit_s: float, effort: Effort
) -> list[tuple[StageAssignment, ...]]:
    rest = {name: plan for name, plan in stages.items() if name != model.name}
    found = evaluate(problem, rest)
    others = others_of(problem, rest, found)
    space = build_space(problem, model, others, required=must(problem, model, rest))
    costs = moved_costs(space)
    if problem.objective == THROUGHPUT:
        steps = least(space, costs, limit_s, effort, NOTHING).steps
        near = [steps] if steps is not None and busiest(space, others, steps) <= limit_s * (1 + TIE) else []
        return [assignments(space, one) for one in near]
    delay = own_delay(space, rest, found)
    return [assignments(space, one) for one in _priced(space, delay, costs, effort)]


def _priced(space: Space, delay: Costs, moved: Costs, effort: Effort) -> Iterator[tuple[Step, ...]]:
    """Plans with the smallest sum of seconds and of bytes at several prices: the convex part of the trade-off."""
    free = least(space, delay, LONGEST_S, effort, NOTHING)
    if free.steps is None:
        return
    unit = (free.value or 1.0) / max(value_of(space, moved, free.steps), 1.0)
    for power in range(-PRICES, PRICES):
        price = unit * 2.0**power
        both = Costs(delay.stage + price * moved.stage, delay.hop + price * moved.hop, delay.fixed, additive=True)
        found = least(space, both, LONGEST_S, effort, NOTHING)
        if found.steps is not None:
            yield found.steps
