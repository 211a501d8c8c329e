"""The best answer of one model to what the others do: its stages, given theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .chained import is_chain, seed
from .costs import share_of, weights
from .evaluate import Evaluation, evaluate
from .feasible import Run
from .labels import LABELS, NOTHING, Found, Step, value_of
from .media import smallest_with_media, whole
from .parts import Model
from .problem import LATENCY, THROUGHPUT, Problem
from .relax import Costs
from .single import Effort, assignments, least, smallest_peak
from .solution import StageAssignment
from .space import LONGEST_S, Others, Space, build_space
from .sums import delay_costs, effort_costs
from .totals import shortfall

Stages = dict[str, tuple[StageAssignment, ...]]


@dataclass(frozen=True)
class Response:
    """`stages` None: none found; that there are none is proven if `bound` is inf.

    `bound`: no stages of this model, given the others', are below it in the problem's objective (its own part of it).
    """

    stages: tuple[StageAssignment, ...] | None
    bound: float
    algorithm: str


def respond(
    problem: Problem, stages: Mapping[str, Sequence[StageAssignment]], model: Model, effort: Effort
) -> Response:
    """The best stages for `model` beside those of the other models in `stages`."""
    if not problem.nodes:
        return Response(None, math.inf, LABELS)
    if effort.out_of_time():
        return Response(None, 0.0, LABELS)
    rest = {name: tuple(plan) for name, plan in stages.items() if name != model.name}
    if shortfall(problem, [model], hosted_by(rest)) > 0:
        return Response(None, math.inf, LABELS)
    found = evaluate(problem, rest)
    required = must(problem, model, rest)
    response = _respond(problem, rest, found, model, required, effort)
    if required and response.bound == 0:
        idle = _respond(problem, rest, found, model, 0, effort)
        response = replace(response, bound=idle.bound if idle.stages is not None else 0.0)
    return response


def others_of(problem: Problem, stages: Stages, found: Evaluation) -> Others:
    """What these stages take of nodes, links, ports and media."""
    ids = [node.id for node in problem.nodes]
    busy = found.busy
    links = [[busy.links.get((a, b), 0.0) for b in ids] for a in ids]
    nodes, ingress, egress = ([used.get(a, 0.0) for a in ids] for used in (busy.nodes, busy.ingress, busy.egress))
    return Others(
        nodes_s=np.array(nodes),
        links_s=np.array(links).reshape(len(ids), len(ids)),
        ingress_s=np.array(ingress),
        egress_s=np.array(egress),
        media_s=np.array([busy.media.get(medium.name, 0.0) for medium in problem.media]),
        hosted=hosted_by(stages),
    )


def hosted_by(stages: Mapping[str, Sequence[StageAssignment]]) -> dict[str, dict[str, list[Run]]]:
    """By node and model the blocks that are there."""
    hosted: dict[str, dict[str, list[Run]]] = {}
    for name, plan in stages.items():
        for stage in plan:
            for node in stage.nodes:
                hosted.setdefault(node, {}).setdefault(name, []).append(stage.blocks)
    return hosted


def own_delay(space: Space, rest: Stages, found: Evaluation) -> Costs:
    """This model's part of the latency or weighted objective: its own delay, and how it makes the others wait."""
    problem, model = space.problem, space.model
    size, index = len(problem.nodes), problem.node_index()
    counted = {model.name: 1.0} if problem.objective == LATENCY else weights(problem)
    own, wait = np.full(size, counted[model.name]), np.zeros(size)
    priority = {one.name: one.priority for one in problem.models}
    shares = {one.name: share_of(problem, one) for one in problem.models}
    for name in rest:
        for stage in found.models[name].stages:
            for node, part in stage.shares.items():
                if priority[model.name] >= priority[name]:
                    own[index[node]] += counted[name] * part * space.share
                if priority[name] >= priority[model.name]:
                    wait[index[node]] += counted[model.name] * shares[name] * part * stage.cost_s[node]
    return delay_costs(space, own, wait, counted[model.name])


def tidy(space: Space, others: Others, limit_s: float, steps: Sequence[Step], effort: Effort) -> tuple[Step, ...]:
    """Within a limit, the plan with fewest nodes, then least compute; `steps` is one within it."""
    costs = effort_costs(space)
    known = Found(tuple(steps), value_of(space, costs, steps), 0.0)
    found = least(space, costs, limit_s, effort.up_to(2), known)
    assert found.steps is not None
    return found.steps if whole(space, others, found.steps) <= limit_s else tuple(steps)


def _respond(
    problem: Problem, rest: Stages, found: Evaluation, model: Model, required: int, effort: Effort
) -> Response:
    others = others_of(problem, rest, found)
    if problem.objective == THROUGHPUT:
        space = build_space(problem, model, others, required=required)
        best, algorithm = _fastest(space, others, effort)
    else:  # the mean over replicas is no better than the best of them: they can only help to use required nodes
        space = build_space(problem, model, others, required=required, replicas=required != 0)
        best, algorithm = least(space, own_delay(space, rest, found), math.inf, effort, NOTHING), LABELS
        lost = best.steps is None and not rest and effort.chain and len(effort.widths) == 1
        if lost and math.isinf(seed(space, others, effort)[0].bound):
            best = replace(best, bound=math.inf)  # no plan at all, for whatever objective
    bound = best.bound if space.complete else 0.0
    if best.steps is None:
        return Response(None, math.inf if bound >= LONGEST_S / 2 else bound, algorithm)
    return Response(assignments(space, best.steps), bound, algorithm)


def _fastest(space: Space, others: Others, effort: Effort) -> tuple[Found, str]:
    known, algorithm = seed(space, others, effort) if effort.chain else (NOTHING, LABELS)
    if known.bound >= LONGEST_S or (known.steps is not None and is_chain(space, others)):
        return known, algorithm
    best = smallest_with_media(space, others, effort, smallest_peak(space, effort, known))
    if best.steps is None or effort.out_of_time():
        return best, algorithm if best.steps and best.steps == known.steps else LABELS
    busiest = max(float(one.max(initial=0.0)) for one in (others.nodes_s, others.links_s, others.media_s))
    steps = tidy(space, others, max(best.value, busiest), best.steps, effort)
    return replace(best, steps=steps), algorithm if steps == known.steps else LABELS


def must(problem: Problem, model: Model, rest: Stages) -> int:
    """Bits of the nodes that this model has to use: its own required ones, and, as the last, those still idle."""
    used = {node for plan in rest.values() for stage in plan for node in stage.nodes}
    last = len(rest) == len(problem.models) - 1
    return sum(
        1 << i
        for i, node in enumerate(problem.nodes)
        if node.id in model.required or (last and node.required and node.id not in used)
    )
