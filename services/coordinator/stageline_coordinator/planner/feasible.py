"""Whether a plan may run at all: its stages cover each model, links exist, memory suffices, also during the move.

Coming from a running plan, a node holds the stages that it serves now until the new ones serve. Weights of a block that
is in both, and what several of these blocks share, are held once; workspace and buffers of both stages count, unless it
is the very same stage. A node that has nothing to load needs no memory for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from .costs import link_bandwidth, port_bandwidth
from .parts import NO_CODEC, Model
from .problem import Problem
from .solution import StageAssignment

Run = tuple[int, int]
Hosted = Mapping[str, Sequence[Run]]


def faults(problem: Problem, stages: Mapping[str, Sequence[StageAssignment]]) -> Iterator[str]:
    """Every reason why the plan cannot run, each a sentence; none: it can."""
    index = problem.node_index()
    for name in stages.keys() - {model.name for model in problem.models}:
        yield f"model '{name}': not in the problem"
    hosted: dict[str, dict[str, list[Run]]] = {}
    for model in problem.models:
        plan = stages.get(model.name, ())
        if not plan:
            yield f"model '{model.name}': has no stages"
            continue
        yield from (f"model '{model.name}': {fault}" for fault in _model_faults(problem, index, model, plan))
        for stage in plan:
            for node in stage.nodes:
                hosted.setdefault(node, {}).setdefault(model.name, []).append(stage.blocks)
    yield from _node_faults(problem, hosted)


def malformed(problem: Problem, stages: Mapping[str, Sequence[StageAssignment]]) -> Iterator[str]:
    """Names of the models whose stages are no blocks of it in order, on nodes that exist: they have no figures."""
    index = problem.node_index()
    for model in problem.models:
        plan = stages.get(model.name, ())
        if plan and (not _covers(model, plan) or any(not s.nodes or not set(s.nodes) <= index.keys() for s in plan)):
            yield model.name


def running_on(problem: Problem, node: str) -> dict[str, list[Run]]:
    """The stages that a node serves now, by model."""
    found: dict[str, list[Run]] = {}
    for name, stages in problem.current.items():
        for stage in stages:
            if node in stage.nodes:
                found.setdefault(name, []).append(stage.blocks)
    return found


def held_bytes(models: Iterable[Model], *hosted: Hosted) -> int:
    """Bytes of the stages of one or two plans on one node, its `base_bytes` not included."""
    total = 0
    for model in models:
        runs = {run for one in hosted for run in one.get(model.name, ())}
        blocks = {block for start, end in runs for block in range(start, end)}
        total += model.weight_bytes(blocks)
        total += sum(model.stage_bytes(*run) - model.weight_bytes(range(*run)) for run in runs)
    return total


def _model_faults(
    problem: Problem, index: Mapping[str, int], model: Model, plan: Sequence[StageAssignment]
) -> Iterator[str]:
    if not _covers(model, plan):
        yield "the stages are not its blocks in order"
    used = [node for stage in plan for node in stage.nodes]
    for node in sorted({node for node in used if used.count(node) > 1}):
        yield f"{node} serves more than one of its stages"
    for node in model.required:
        if node not in used:
            yield f"{node} is required and serves none of its stages"
    for i, stage in enumerate(plan):
        yield from (f"stage {i}: {fault}" for fault in _stage_faults(problem, index, model, stage, first=i == 0))
    yield from _hop_faults(problem, index, model, plan)


def _covers(model: Model, plan: Sequence[StageAssignment]) -> bool:
    ends = [0, *(stage.blocks[1] for stage in plan)]
    return [stage.blocks[0] for stage in plan] == ends[:-1] and ends[-1] == len(model.blocks)


def _stage_faults(
    problem: Problem, index: Mapping[str, int], model: Model, stage: StageAssignment, *, first: bool
) -> Iterator[str]:
    if not 1 <= len(stage.nodes) <= model.max_replicas:
        yield f"has {len(stage.nodes)} nodes; 1 to {model.max_replicas} are allowed"
    if first and model.source is not None and stage.nodes != (model.source,):
        yield f"must be on {model.source}, the model's source"
    if stage.codec != NO_CODEC and (first or stage.codec not in {one.name for one in model.allowed_codecs()}):
        yield f"codec '{stage.codec}' may not be used there"
    for node in stage.nodes:
        if node not in index:
            yield f"no node '{node}'"
        elif any(math.isinf(block.seconds[index[node]]) for block in model.blocks[slice(*stage.blocks)]):
            yield f"{node} cannot run its blocks"
        elif problem.nodes[index[node]].excluded:
            yield f"{node} is excluded"


def _hop_faults(
    problem: Problem, index: Mapping[str, int], model: Model, plan: Sequence[StageAssignment]
) -> Iterator[str]:
    for node in plan[0].nodes:
        if node in index and port_bandwidth(problem.ingress, index[node]) == 0:
            yield f"no link from the gateway to {node}"
    for node in plan[-1].nodes:
        if node in index and port_bandwidth(problem.egress, index[node]) == 0:
            yield f"no link from {node} to the gateway"
    for here, there in pairwise(plan):
        for a in here.nodes:
            for b in there.nodes:
                if a in index and b in index and link_bandwidth(problem, index[a], index[b]) == 0:
                    yield f"no link from {a} to {b}"


def _node_faults(problem: Problem, hosted: Mapping[str, Hosted]) -> Iterator[str]:
    for node in problem.nodes:
        new, now = hosted.get(node.id, {}), running_on(problem, node.id)
        if node.required and not new:
            yield f"{node.id} is required and serves nothing"
        loads = any(run not in now.get(name, ()) for name, runs in new.items() for run in runs)
        alone = node.base_bytes + held_bytes(problem.models, new)
        both = node.base_bytes + held_bytes(problem.models, new, now)
        if new and alone > node.memory_bytes:
            yield f"{node.id} has {node.memory_bytes} bytes and would need {alone}"
        elif loads and both > node.memory_bytes:
            yield f"{node.id} has {node.memory_bytes} bytes and would need {both} beside what it serves now"
