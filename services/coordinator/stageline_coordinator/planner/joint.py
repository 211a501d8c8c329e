"""Plans for all models together: one after another, then improved model by model and pair by pair.

A plan is better that leaves less priority unplaced, then fewer required nodes idle, then by the objective; among equals
of one model the one on fewer nodes, then with less compute; of several the one with less square of busy seconds, which
makes room for the next model to move. The bound: what each model could have alone, and for throughput what all nodes
together need for all work; no joint plan can beat either.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from .costs import share_of, weights
from .evaluate import evaluate
from .labels import TIE
from .parts import Model
from .problem import LATENCY, THROUGHPUT, Problem
from .respond import Response, Stages, respond
from .single import Effort
from .solution import StageAssignment
from .work import total_work_s

SHUFFLES = 4

KEPT_OFF = 3

Try = tuple[tuple[Model, ...], str | None]


class Key(NamedTuple):
    """How good a plan is: smaller is better. `left_out`: which models, in the order in which they should come first.

    One model is to be on few `nodes`, with little compute (then `squares`); for several, `nodes` is 0.
    """

    unplaced: float
    left_out: tuple[bool, ...]
    idle: int
    objective_s: float
    nodes: int
    squares: float

    @property
    def whole(self) -> bool:
        """Whether every model and every required node has its place."""
        return not self.unplaced and not self.idle


def plans(problem: Problem, effort: Effort, bound_s: float) -> Iterator[tuple[Stages, Mapping[str, str]]]:
    """Better and better plans, each with the algorithms' names by model; ends when none is found or time is over.

    A plan at `bound_s` is the last.
    """
    best: tuple[Key, Stages, dict[str, str]] | None = None
    for order in _orders(problem):
        stages: Stages = {}
        named: dict[str, str] = {}
        for model in order:
            _place(problem, stages, named, model, effort.up_to(1))
        for key in _polished(problem, stages, named, effort):
            if best is None or better(key, best[0]):
                best = (key, dict(stages), dict(named))
                yield best[1], best[2]
        if best is not None and (effort.out_of_time() or _reached(best[0], bound_s)):
            return


def bound_alone(problem: Problem, model: Model, effort: Effort) -> Response:
    """The best that a model could have with all nodes to itself, however they are used now."""
    nodes = tuple(replace(node, required=False) for node in problem.nodes)
    objective = THROUGHPUT if problem.objective == THROUGHPUT else LATENCY
    lone = replace(problem, nodes=nodes, models=(model,), objective=objective, current={})
    return respond(lone, {}, model, effort.up_to(2))


def joint_bound(
    problem: Problem, placed: Sequence[Model], alone: Mapping[str, float], enough: float = math.inf
) -> float:
    """No plan for these models is below it; `alone`: the bound of each with all nodes to itself.

    A bound of `enough` is not made better, which would take a while.
    """
    if problem.objective == THROUGHPUT:
        most = max((share_of(problem, model) * alone[model.name] for model in placed), default=0.0)
        return most if most >= enough else max(total_work_s(problem, placed), most)
    counted = weights(problem) if problem.objective != LATENCY else {model.name: 1.0 for model in placed}
    return math.fsum(counted[model.name] * alone[model.name] for model in placed)


def key_of(problem: Problem, stages: Mapping[str, Sequence[StageAssignment]]) -> Key:
    """How good these stages are."""
    found = evaluate(problem, stages)
    unplaced = sum(1 + model.priority for model in problem.models if model.name not in stages)
    hosting = {node for plan in stages.values() for stage in plan for node in stage.nodes}
    idle = sum(node.required and node.id not in hosting for node in problem.nodes)
    for model in problem.models:
        own = {node for stage in stages.get(model.name, ()) for node in stage.nodes}
        idle += len(set(model.required) - own) if model.name in stages else 0
    left_out = tuple(model.name not in stages for model in by_rank(problem))
    if len(problem.models) == 1:
        compute = math.fsum(stage.compute_s for cost in found.models.values() for stage in cost.stages)
        return Key(unplaced, left_out, idle, found.objective_s, len(hosting), compute)
    squares = math.fsum(busy * busy for busy in found.busy.nodes.values())
    return Key(unplaced, left_out, idle, found.objective_s, 0, squares)


def _orders(problem: Problem) -> Iterator[list[Model]]:
    """Highest priority first, then most work; the reverse; and a few at random, always the same ones."""
    first = by_rank(problem)
    yield first
    if len(first) < 2:
        return
    yield first[::-1]
    rng = random.Random(0)
    for _ in range(SHUFFLES if len(first) > 2 else 0):
        yield rng.sample(first, len(first))


def by_rank(problem: Problem) -> list[Model]:
    return sorted(problem.models, key=lambda model: (-model.priority, -_work(problem, model)))


def _work(problem: Problem, model: Model) -> float:
    known = [[s for s in block.seconds if not math.isinf(s)] for block in model.blocks]
    return share_of(problem, model) * math.fsum(math.fsum(one) / len(one) for one in known if one)


def _place(problem: Problem, stages: Stages, named: dict[str, str], model: Model, effort: Effort) -> None:
    found = respond(problem, stages, model, effort)
    if found.stages is None and any(node.required for node in problem.nodes) and len(problem.models) > 1:
        idle = tuple(replace(node, required=False) for node in problem.nodes)
        found = respond(replace(problem, nodes=idle), stages, model, effort)
    if found.stages is not None:
        stages[model.name], named[model.name] = found.stages, found.algorithm


def _polished(problem: Problem, stages: Stages, named: dict[str, str], effort: Effort) -> Iterator[Key]:
    """Changes `stages` for the better until it cannot, and says how good they are after each change."""
    key = key_of(problem, stages)
    yield key
    failed, at = 0, 0
    while not effort.out_of_time():
        tries = _tries(problem, stages)
        if failed >= len(tries):
            return
        at = (at + 1) % len(tries)
        again, algorithms = _again(problem, stages, named, tries[at], effort)
        new = key_of(problem, again)
        failed += 1
        if better(new, key):
            key, failed = new, 0
            stages.clear()
            stages.update(again)
            named.update(algorithms)
            yield key


def _tries(problem: Problem, stages: Stages) -> list[Try]:
    """One model again; two again, in either order; one kept off a busy node of its own, then all others again."""
    models = problem.models
    found: list[Try] = [((model,), None) for model in models]
    if len(models) > 1:
        found += [(order, None) for pair in combinations(models, 2) for order in (pair, pair[::-1])]
        busy = evaluate(problem, stages).busy.nodes
        for model in models:
            mine = {node for stage in stages.get(model.name, ()) for node in stage.nodes}
            others = tuple(other for other in models if other is not model)
            for node in sorted(mine, key=lambda one: -busy[one])[:KEPT_OFF]:
                found.append(((model, *others), node))
    return found


def _again(
    problem: Problem, stages: Stages, named: Mapping[str, str], change: Try, effort: Effort
) -> tuple[Stages, dict[str, str]]:
    """The plan after a change: those models taken out and placed again, the first of them without that node."""
    order, off = change
    away = {model.name for model in order}
    again = {name: plan for name, plan in stages.items() if name not in away}
    algorithms = dict(named)
    nodes = tuple(replace(node, excluded=node.excluded or node.id == off, required=False) for node in problem.nodes)
    _place(replace(problem, nodes=nodes) if off else problem, again, algorithms, order[0], effort.up_to(2))
    for model in order[1:]:
        _place(problem, again, algorithms, model, effort.up_to(2))
    return again, algorithms


def better(new: Key, old: Key) -> bool:
    """Whether the first is better by more than rounding."""
    if new[:3] != old[:3]:
        return new[:3] < old[:3]
    if abs(new.objective_s - old.objective_s) > 10 * TIE * old.objective_s:
        return new.objective_s < old.objective_s
    if new.nodes != old.nodes:
        return new.nodes < old.nodes
    return new.squares < old.squares * (1 - 1e-9)


def _reached(key: Key, bound_s: float) -> bool:
    return key.whole and key.objective_s <= bound_s * (1 + 10 * TIE)
