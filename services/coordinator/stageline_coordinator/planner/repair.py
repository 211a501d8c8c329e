"""A usable plan at once: after a death what is left of the running plan, stretched over what is missing.

Model by model, with the nodes in the order in which they serve now and spare ones where somebody is gone: the best
places to cut for that order are a dynamic programme over (node, cut, codec), which takes milliseconds. First every
node keeps what it has, and only the missing blocks are handed out; all cuts are moved only where that gains more than
the threshold for leaving a plan. Groups of replicas stay together, and their hops are reckoned as if shared evenly.
Where nothing runs, all nodes are spare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .costs import link_bandwidth
from .evaluate import Evaluation, evaluate
from .joint import Key, by_rank, key_of
from .labels import Step
from .parts import Model, Running
from .problem import THROUGHPUT, Problem
from .relax import Costs
from .replan import current_stages
from .respond import Stages, others_of, own_delay
from .single import assignments, peak_costs
from .solution import StageAssignment
from .space import LONGEST_S, Floats, Ints, Space, build_space
from .sums import moved_costs

REPAIR = "repair"
"""What the algorithm is called in a solution."""

MAX_CELLS = 1_500_000
"""Of all stages' costs together; beyond it only codecs in use are considered."""

Group = tuple[int, ...]
Held = Mapping[Group, tuple[int, int]]


def repaired(problem: Problem) -> Stages | None:
    """Stages for every model; the running plan where it may go on. None where this finds no plan that may run."""
    running = current_stages(problem)
    if running and not evaluate(problem, running).faults:
        return running
    if not problem.nodes:
        return None
    stages: Stages = {}
    problem = _lean(problem)
    for model in by_rank(problem):
        found = _repaired(problem, stages, model)
        if found is None:
            return None
        stages[model.name] = found
    return None if evaluate(problem, stages).faults else stages


def _lean(problem: Problem) -> Problem:
    """With only those codecs that are in use, where trying all would take long."""
    sizes = (len(model.blocks) * (1 + len(model.allowed_codecs())) for model in problem.models)
    if len(problem.nodes) * sum(size * size for size in sizes) <= MAX_CELLS:
        return problem
    models = (
        replace(model, codecs=tuple(codec for codec in model.codecs if codec.name in _used(problem, model)))
        for model in problem.models
    )
    return replace(problem, models=tuple(models))


def _used(problem: Problem, model: Model) -> set[str]:
    return {stage.codec for stage in problem.current.get(model.name, ())}


@dataclass(frozen=True)
class _Chain:
    """The groups of a space in the order in which they may serve, and what each holds now."""

    space: Space
    order: Ints
    held: Sequence[tuple[int, int] | None]

    def stage(self, costs: Costs, *, keep: bool, limit_s: float = math.inf) -> Floats:
        """`[p, k, l, a, b]`: what the stages cost; inf beyond the limit, and, with `keep`, without what is held."""
        found = costs.stage[self.order]
        if limit_s < LONGEST_S:
            found[self.space.stage_s[self.order] > limit_s] = math.inf
        for place, run in enumerate(self.held if keep else ()):
            if run is not None:
                found[place, :, :, run[0] + 1 :, :] = math.inf
                found[place, :, :, :, : run[1]] = math.inf
        return found

    def hop(self, costs: Costs, limit_s: float = math.inf) -> Floats:
        """`[p, q, k, c]`: what the hops cost between groups, shared evenly."""
        space = self.space
        busy = np.where(space.links_s + space.loads_s[:, :, None, None] <= min(limit_s, LONGEST_S), costs.hop, math.inf)
        busy = busy if costs.additive else np.maximum(busy, costs.fixed[:, :, None, None])
        busy = busy + costs.fixed[:, :, None, None] if costs.additive else busy
        if space.parts is None:
            single = space.members[self.order, 0]
            return busy[np.ix_(single, single)]
        groups = [sorted(set(space.members[g].tolist())) for g in self.order]
        found = np.empty((len(groups), len(groups), *busy.shape[2:]))
        for p, mine in enumerate(groups):
            for q, theirs in enumerate(groups):
                each = busy[np.ix_(mine, theirs)]
                found[p, q] = each.mean(axis=(0, 1)) if costs.additive else each.max(axis=(0, 1)) / each[..., 0, 0].size
        return found


def _repaired(problem: Problem, stages: Stages, model: Model) -> tuple[StageAssignment, ...] | None:
    found = evaluate(problem, stages)
    others = others_of(problem, stages, found)
    running = sorted(problem.current.get(model.name, ()), key=lambda one: one.blocks)
    groups, held = _groups(problem, model, running)
    space = build_space(problem, model, others, only=groups)
    best: tuple[Key, tuple[StageAssignment, ...]] | None = None
    for order in _orders(problem, model, running, groups):
        chain = _Chain(space, np.array([groups.index(group) for group in order]), [held.get(one) for one in order])
        steps = _cut(chain, _costs(space, stages, found))
        if steps is None:
            continue
        plan = assignments(space, steps)
        key = key_of(problem, {**stages, model.name: plan})
        if best is None or key < best[0]:
            best = (key, plan)
    return best[1] if best else None


def _costs(space: Space, stages: Stages, found: Evaluation) -> Costs:
    return peak_costs(space) if space.problem.objective == THROUGHPUT else own_delay(space, stages, found)


def _groups(problem: Problem, model: Model, running: Sequence[Running]) -> tuple[list[Group], Held]:
    """Those that serve stages now and are left, and every node by itself; and what the former hold."""
    index = problem.node_index()
    held: dict[Group, tuple[int, int]] = {}
    for stage in running:
        group = tuple(sorted(index[node] for node in stage.nodes))[: model.max_replicas]
        if group and not any(set(group) & set(other) for other in held):
            held[group] = stage.blocks
    single = [(i,) for i in range(len(problem.nodes)) if (i,) not in held]
    return [*held, *single], held


def _orders(
    problem: Problem, model: Model, running: Sequence[Running], groups: Sequence[Group]
) -> Iterator[list[Group]]:
    """The running plan's with the spare nodes where one is gone, or else at the end: the fastest first, or last.

    And by the fastest link from one spare node to the next.
    """
    index = problem.node_index()
    chain = [tuple(sorted(index[node] for node in stage.nodes))[: model.max_replicas] for stage in running]
    kept = {node for group in chain for node in group}
    seconds = [model.stage_seconds(0, len(model.blocks), i) for i in range(len(problem.nodes))]
    spare = sorted((group for group in groups if not kept & set(group)), key=lambda one: seconds[one[0]])
    gaps = [place for place, group in enumerate(chain) if not group] or [len(chain)]
    near = _by_links(problem, spare, chain[gaps[0] - 1] if gaps[0] else ())
    for first in (spare, spare[::-1], near) if len(spare) > 1 else (spare,):
        order: list[Group] = []
        for place in range(len(chain) + 1):
            order += first[gaps.index(place) :: len(gaps)] if place in gaps else ()
            order += [one for one in chain[place : place + 1] if one in groups and one not in order]
        yield order


def _by_links(problem: Problem, spare: Sequence[Group], before: Group) -> list[Group]:
    left, order = list(spare), list[Group]()
    while left:
        last = (order[-1] if order else before)[:1]
        best = max(left, key=lambda one: link_bandwidth(problem, last[0], one[0])) if last else left[0]
        order.append(best)
        left.remove(best)
    return order


def _cut(chain: _Chain, costs: Costs) -> tuple[Step, ...] | None:
    """The best stages in that order, near to what runs."""
    replan = chain.space.problem.replan
    free = best_cuts(chain, costs, keep=False)
    kept = best_cuts(chain, costs, keep=True)
    keep = kept is not None and free is not None and kept[0] * (1 - replan.threshold) <= free[0]
    found = kept if keep else free
    if found is None or costs.additive:
        return found[1] if found else None
    limit_s = found[0] * (1 + replan.tolerance)
    near = best_cuts(chain, moved_costs(chain.space), keep=keep, limit_s=limit_s)
    return near[1] if near else found[1]


def best_cuts(
    chain: _Chain, costs: Costs, *, keep: bool, limit_s: float = math.inf
) -> tuple[float, tuple[Step, ...]] | None:
    """The least cost of stages on some of the groups in their order, and these stages; None: there are none."""
    stage, hop = chain.stage(costs, keep=keep, limit_s=limit_s), chain.hop(costs, limit_s)
    places, codecs, _, cuts, _ = stage.shape
    ends = np.full((places, codecs, cuts), math.inf)  # [p, l, b]: the best chain whose last stage is p's, to cut b
    ways: list[tuple[Ints, Ints]] = []
    for p in range(places):
        enter, before = np.full((codecs, cuts), math.inf), np.full((codecs, cuts), -1)
        if p:
            each = costs.join(ends[:p], hop[:p, p])
            before, enter = each.argmin(axis=0), each.min(axis=0)
        whole = costs.join(enter[:, None, :, None], stage[p])
        opening = stage[p][0, :, 0, :] < whole[0, :, 0, :]
        whole[0, :, 0, :] = np.where(opening, stage[p][0, :, 0, :], whole[0, :, 0, :])
        flat = whole.transpose(1, 3, 0, 2).reshape(codecs, cuts, codecs * cuts)  # [l, b, (k, a)]
        ends[p] = flat.min(axis=2)
        ways.append((flat.argmin(axis=2), before))
    last = int(ends[:, 0, -1].argmin())
    value = float(ends[last, 0, -1])
    return (value, _traced(chain, ways, last)) if value < LONGEST_S else None


def _traced(chain: _Chain, ways: Sequence[tuple[Ints, Ints]], place: int) -> tuple[Step, ...]:
    steps: list[Step] = []
    out, end = 0, chain.space.blocks
    while True:
        into, start = divmod(int(ways[place][0][out, end]), chain.space.blocks + 1)
        nodes = tuple(dict.fromkeys(chain.space.members[chain.order[place]].tolist()))
        steps.append(Step(nodes, start, end, into))
        if start == 0:
            return tuple(steps[::-1])
        place, out, end = int(ways[place][1][into, start]), into, start
