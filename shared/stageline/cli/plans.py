"""A plan as table rows and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stageline.cli.output import size
from stageline.messages import Backing, NodeRow
from stageline.plan import ModelPlan, Plan, PlanStage, Replica, StageKey

PLAN_COLUMNS = ("model", "stage", "blocks", "node", "weights", "compute ms", "bytes out", "")
PLAN_RIGHT = ("stage", "weights", "compute ms", "bytes out")
BOTTLENECK = "* bottleneck"
TORCH = ("eager", "f32")


def plan_rows(plan: Plan) -> list[list[str]]:
    """One row per stage."""
    rows = []
    for model in plan.models:
        slowest = bottleneck(model)
        for number, stage in enumerate(model.stages):
            rows.append(
                [
                    model.name,
                    str(number),
                    _blocks(stage),
                    " ".join(replica.node for replica in stage.replicas),
                    size(stage.weight_bytes),
                    f"{1000 * stage.compute_s:.2f}",
                    size(stage.output_bytes),
                    BOTTLENECK if number == slowest else "",
                ]
            )
    return rows


def standby_lines(plan: Plan) -> list[str]:
    """Who stands by for which stage, and why somebody does not; nothing where no standbys are wanted."""
    lines = []
    for model in plan.models:
        for stage in model.stages:
            name = f"{model.name} {stage.start}-{stage.end}"
            if stage.standbys:
                lines.append(f"standby for {name}: {' '.join(replica.node for replica in stage.standbys)}")
            if stage.exposed:
                lines.append(f"no {'further ' if stage.standbys else ''}standby for {name}: {stage.exposed}")
    return lines


Backends = Mapping[tuple[str, StageKey], Backing]
"""What runs stages, by executor and stage, where workers say so; all others are torch's."""


def backends_of(nodes: Iterable[NodeRow]) -> Backends:
    """As the workers say."""
    told = (progress for node in nodes for progress in node.progress)
    return {(one.executor, backing.stage): backing for one in told for backing in one.backends}


def backend_lines(plan: Plan, backends: Backends) -> list[str]:
    """What runs each stage on each worker; a single line where torch runs them all."""
    stages = [(model, stage) for model in plan.models for stage in model.stages]
    if stages and all(_backing(*one, replica, backends) == TORCH for one in stages for replica in one[1].replicas):
        return [f"all stages are run by {' '.join(TORCH)}"]
    return [
        f"{model.name} {stage.start}-{stage.end} is run by "
        + ", ".join(f"{' '.join(_backing(model, stage, one, backends))} on {one.node}" for one in stage.replicas)
        for model, stage in stages
        if stage.replicas
    ]


def _backing(model: ModelPlan, stage: PlanStage, replica: Replica, backends: Backends) -> tuple[str, str]:
    """Backend and precision."""
    found = backends.get((replica.executor, model.key(stage)))
    return (found.backend, found.precision) if found is not None else TORCH


def exposed(plan: Plan) -> tuple[int, int]:
    """(stages that have fewer standbys than wanted, stages)."""
    stages = [stage for model in plan.models for stage in model.stages]
    return sum(bool(stage.exposed) for stage in stages), len(stages)


def bottleneck(model: ModelPlan) -> int:
    """The number of the stage that computes longest per item, its replicas sharing the work; -1 without stages."""
    times = [stage.compute_s / max(1, len(stage.replicas)) for stage in model.stages]
    return times.index(max(times)) if times else -1


def model_json(model: ModelPlan, backends: Backends) -> dict[str, Any]:
    """A model's placement; seconds and bytes are those of one item, backends in the order of the nodes."""
    return {
        "name": model.name,
        "manifest": model.manifest,
        "status": model.status,
        "reason": model.reason,
        "bottleneck_s": model.bottleneck_s,
        "bound_s": model.bound_s,
        "objective": model.objective,
        "input_bytes": model.input_bytes,
        "bottleneck_stage": bottleneck(model) if model.stages else None,
        "stages": [
            {
                "stage": number,
                "start": stage.start,
                "end": stage.end,
                "first_block": stage.first_block,
                "last_block": stage.last_block,
                "nodes": [replica.node for replica in stage.replicas],
                "executors": [replica.executor for replica in stage.replicas],
                "backends": [
                    dict(zip(("backend", "precision"), _backing(model, stage, replica, backends), strict=True))
                    for replica in stage.replicas
                ],
                "standbys": [replica.node for replica in stage.standbys],
                "exposed": stage.exposed,
                "weight_bytes": stage.weight_bytes,
                "compute_s": stage.compute_s,
                "output_bytes": stage.output_bytes,
            }
            for number, stage in enumerate(model.stages)
        ],
    }


def _blocks(stage: PlanStage) -> str:
    """Blocks half-open, with names where known."""
    span = f"{stage.start}-{stage.end}"
    if not stage.first_block:
        return span
    names = stage.first_block if stage.first_block == stage.last_block else f"{stage.first_block}…{stage.last_block}"
    return f"{span} {names}"
