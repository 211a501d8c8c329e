"""A plan's figures for people, from the planner's evaluation of it.

It needs the coordinator's planner, so commands import it only when they run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from stageline.cli.planfigures import PROVEN, Chain, Figures, Hop, Host, Limit, Stage
from stageline_coordinator.planner import Problem, Solution, StageAssignment
from stageline_coordinator.planner.costs import PLAIN
from stageline_coordinator.planner.evaluate import Evaluation, ModelCost, Stages, evaluate
from stageline_coordinator.planner.feasible import held_bytes
from stageline_coordinator.planner.loads import EGRESS, INGRESS, LINK, MEDIUM, NODE, Load, indivisible, loads, reason
from stageline_coordinator.planner.parts import Model


@dataclass(frozen=True)
class Claim:
    """What is known of the plan beside its stages: the bound that was proven, and who made it."""

    bound_s: float | None = None
    algorithm: str = ""


def of_solution(title: str, problem: Problem, solution: Solution) -> Figures:
    """Of a solved problem."""
    return describe_plan(title, problem, solution.stages, Claim(solution.lower_bound_s, solution.algorithm))


def of_running(title: str, problem: Problem, bound_s: float | None, measured: Mapping[str, float]) -> Figures:
    """Of the problem's running plan; `measured`: the busy share of nodes. Models that miss a worker are left out."""
    stages = running_stages(problem)
    models = tuple(model for model in problem.models if model.name in stages)
    current = {name: running for name, running in problem.current.items() if name in stages}
    return describe_plan(title, replace(problem, models=models, current=current), stages, Claim(bound_s), measured)


def running_stages(problem: Problem) -> dict[str, tuple[StageAssignment, ...]]:
    """The running plan; without models of which a worker is missing."""
    return {
        name: tuple(StageAssignment(stage.blocks, stage.nodes) for stage in running)
        for name, running in problem.current.items()
        if all(stage.nodes for stage in running)
    }


def describe_plan(
    title: str, problem: Problem, stages: Stages, claim: Claim, measured: Mapping[str, float] | None = None
) -> Figures:
    """The figures of any plan; `faults` say where it does not fit the problem."""
    found = evaluate(problem, stages)
    busy = loads(found.busy)
    tops = tuple(one for one in busy if one.seconds >= busy[0].seconds * (1 - PROVEN))
    view = _View(problem, stages, found, tops, measured or {})
    used = {node for placed in stages.values() for stage in placed for node in stage.nodes}
    objective, bound = found.objective_s, claim.bound_s
    return Figures(
        title=title,
        objective=problem.objective,
        objective_s=objective,
        bottleneck_s=found.bottleneck_s,
        bound_s=bound,
        gap=None if found.faults or bound is None else _gap(bound, objective),
        load_factor=found.load_factor,
        chains=tuple(
            view.chain(model, found.models[model.name]) for model in problem.models if model.name in found.models
        ),
        limits=tuple(
            Limit(
                str(one), one.kind, one.seconds, reason(one, problem, stages, found), indivisible(one, problem, stages)
            )
            for one in busy
        ),
        unused=tuple(node.id for node in problem.nodes if node.id not in used),
        faults=found.faults,
        algorithm=claim.algorithm,
    )


def _gap(bound: float, objective: float) -> float:
    return max(0.0, 1 - bound / objective) if 0 < objective < math.inf else 0.0


@dataclass(frozen=True)
class _View:
    problem: Problem
    stages: Stages
    found: Evaluation
    tops: tuple[Load, ...]
    measured: Mapping[str, float] = field(default_factory=dict)

    def chain(self, model: Model, cost: ModelCost) -> Chain:
        placed = self.stages[model.name]
        stages = []
        for number, (stage, spent) in enumerate(zip(placed, cost.stages, strict=True)):
            start, end = stage.blocks
            stages.append(
                Stage(
                    start=start,
                    end=end,
                    first_block=model.blocks[start].name,
                    last_block=model.blocks[end - 1].name,
                    weight_bytes=model.weight_bytes(range(start, end)),
                    compute_s=spent.compute_s,
                    hosts=tuple(self._host(node, share) for node, share in spent.shares.items()),
                    hop_in=self._hop(model, number),
                    limits=self._is_top(NODE, [(node,) for node in stage.nodes]),
                )
            )
        on_way_s = math.fsum(spent.hop_in_s for spent in cost.stages) + cost.out_s
        return Chain(
            model.name, tuple(stages), self._hop(model, len(placed)), cost.latency_s, on_way_s, model.rate_per_s
        )

    def _host(self, name: str, share: float) -> Host:
        node = next(node for node in self.problem.nodes if node.id == name)
        hosted = {
            model: [stage.blocks for stage in placed if name in stage.nodes] for model, placed in self.stages.items()
        }
        return Host(
            node=name,
            share=share,
            busy_s=self.found.busy.nodes.get(name, 0.0),
            held_bytes=node.base_bytes + held_bytes(self.problem.models, hosted),
            memory_bytes=node.memory_bytes,
            limits=self._is_top(NODE, [(name,)]),
            measured=self.measured.get(name),
        )

    def _hop(self, model: Model, number: int) -> Hop:
        """Into stage `number`; after the last one: out of it."""
        placed, busy = self.stages[model.name], self.found.busy
        here = placed[number].nodes if number < len(placed) else ()
        before = placed[number - 1].nodes if number else ()
        names: list[tuple[str, ...]] = [(node,) for node in before or here]
        if before and here:
            kind, pairs = LINK, [(a, b) for a in before for b in here]
            names, seconds = [*pairs], max(busy.links.get(pair, 0.0) for pair in pairs)
        else:
            kind, port = (EGRESS, busy.egress) if before else (INGRESS, busy.ingress)
            seconds = max(port.get(node, 0.0) for node in before or here)
        coded = placed[number].codec if before and here else PLAIN.name
        codec = next((codec for codec in model.codecs if codec.name == coded), PLAIN)
        size = codec.ratio * model.cuts_bytes[placed[number].blocks[0] if here else -1]
        limits = kind == LINK and self._in_top_medium(before, here)
        return Hop(size, coded, seconds, limits or self._is_top(kind, names))

    def _is_top(self, kind: str, names: Collection[tuple[str, ...]]) -> bool:
        """Whether one of the busiest of all is of that kind and has one of the names."""
        return any(top.kind == kind and top.names in names for top in self.tops)

    def _in_top_medium(self, before: tuple[str, ...], here: tuple[str, ...]) -> bool:
        tops = {top.names[0] for top in self.tops if top.kind == MEDIUM}
        return any(
            a != b and a in one.nodes and b in one.nodes
            for one in self.problem.media
            if one.name in tops
            for a in before
            for b in here
        )
