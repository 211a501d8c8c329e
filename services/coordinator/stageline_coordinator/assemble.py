"""The plan's entries for models: those served, from a finished preparation; the rest, with the reason why not. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from stageline.manifest import ModelManifest
from stageline.plan import DimRange, ModelPlan, ModelStatus, Plan, PlanStage, Replica, Signature, ValueSpec

from .figures import Models
from .loadfailures import described
from .peers import Node
from .placement import Answer, Slot, can_plan, measured, stage_seconds
from .preparing import Preparation
from .profiling import ProfileBook
from .wanted import Barred


def signature(manifest: ModelManifest) -> Signature:
    """What clients and gateways need to know of a manifest."""
    inputs, outputs = (
        tuple(ValueSpec(name=v.name, dtype=v.dtype, dims=v.dims) for v in values)
        for values in (manifest.inputs, manifest.outputs)
    )
    dims = {
        name: DimRange(minimum=dim.min, maximum=dim.max, nominal=dim.nominal) for name, dim in manifest.dims.items()
    }
    tolerance = manifest.tolerance
    return Signature(inputs=inputs, outputs=outputs, dims=dims, rtol=tolerance.rtol, atol=tolerance.atol)


def idle(name: str, models: Models, status: ModelStatus, reason: str) -> ModelPlan:
    """A model that is not served now."""
    sha, manifest = models[name]
    return ModelPlan(
        name=name,
        manifest=sha,
        signature=signature(manifest),
        status=status,
        reason=reason,
        input_bytes=manifest.cut_bytes(0),
    )


def serving(name: str, done: Preparation, models: Models, nodes: Mapping[str, Node], book: ProfileBook) -> ModelPlan:
    """A model whose stages are all loaded."""
    sha, manifest = models[name]
    return ModelPlan(
        name=name,
        manifest=sha,
        signature=signature(manifest),
        status="serving",
        stages=tuple(_stage(slot, sha, manifest, done, nodes, book) for slot in done.target[name]),
        bottleneck_s=done.answer.bottleneck_s.get(name, 0.0),
        bound_s=done.answer.bound_s.get(name, 0.0),
        input_bytes=manifest.cut_bytes(0),
        objective=done.answer.objective,
    )


def _stage(
    slot: Slot, sha: str, manifest: ModelManifest, done: Preparation, nodes: Mapping[str, Node], book: ProfileBook
) -> PlanStage:
    replicas = []
    for node in slot.nodes:
        executor = done.executors[node, slot.key(sha)]
        endpoint = nodes[node].executors[executor].endpoint
        replicas.append(Replica(node=node, executor=executor, endpoint=endpoint))
    return PlanStage(
        start=slot.start,
        end=slot.end,
        replicas=tuple(replicas),
        first_block=manifest.blocks[slot.start].name,
        last_block=manifest.blocks[slot.end - 1].name,
        compute_s=max(stage_seconds(manifest, slot, nodes[node], book) for node in slot.nodes),
        weight_bytes=manifest.weight_bytes_of(slot.start, slot.end),
        output_bytes=manifest.cut_bytes(slot.end),
        codec=slot.codec,
    )


def slots_of(model: ModelPlan) -> tuple[Slot, ...]:
    """The placement that a serving model has."""
    return tuple(Slot(s.start, s.end, tuple(replica.node for replica in s.replicas), s.codec) for s in model.stages)


def running_stages(plan: Plan, models: Models, nodes: Sequence[Node]) -> dict[str, Any]:
    """The served stages of `models` as the planner's `current`; a replica not on one of `nodes` is left out.

    Where none is left, the standbys serve the stage: nothing has to be moved to them.
    """
    here = {node.name for node in nodes}
    return {
        model.name: [
            {
                "blocks": [stage.start, stage.end],
                "nodes": _here(stage.replicas, here) or _here(stage.standbys, here),
                "codec": stage.codec or "none",
            }
            for stage in model.stages
        ]
        for model in plan.models
        if model.stages and model.name in models and model.manifest == models[model.name][0]
    }


def _here(replicas: Sequence[Replica], nodes: Collection[str]) -> list[str]:
    return [replica.node for replica in replicas if replica.node in nodes]


def serves(model: ModelPlan, nodes: Mapping[str, Node]) -> bool:
    """Whether gateways can have requests answered: each stage runs on a node that stays, if only on a standby."""
    return bool(model.stages) and all(
        any(_runs(replica, model, stage, nodes) for replica in (*stage.replicas, *stage.standbys))
        for stage in model.stages
    )


def _runs(replica: Replica, model: ModelPlan, stage: PlanStage, nodes: Mapping[str, Node]) -> bool:
    node = nodes.get(replica.node)
    return node is not None and not node.leaving and node.runs(replica.executor, model.key(stage))


def intact(model: ModelPlan, nodes: Mapping[str, Node]) -> bool:
    """Whether every replica still runs with its stage loaded, on a node that stays and is not to be emptied."""
    return bool(model.stages) and all(
        _runs(replica, model, stage, nodes) and not nodes[replica.node].drained
        for stage in model.stages
        for replica in stage.replicas
    )


def why_not(
    name: str,
    models: Models,
    nodes: Sequence[Node],
    left_out: Sequence[Node],
    book: ProfileBook,
    answer: Answer | None,
    barred: Barred,
) -> tuple[ModelStatus, str]:
    """Status and reason of a model that is not served. `nodes` are usable, `left_out` failed lately or are drained.

    `barred`: those of the usable ones that users keep off it.
    """
    if not nodes:
        if left_out:
            return "unavailable", _failures("no worker is usable", left_out)
        return "unavailable", "no workers are connected: start some with stageline-stage"
    sha, manifest = models[name]
    failed = described(name, sha, nodes)
    if not measured(manifest, nodes, book):
        fingerprints = {node.info.fingerprint for node in nodes}
        errors = (error for f, error in sorted(book.errors.items()) if f in fingerprints)
        return "profiling", "; ".join(("its blocks are being measured", *errors))
    if answer is None or name in answer.placement:
        return "loading", failed
    if barred.covers(node.name for node in nodes):
        return "unavailable", _failures(barred.why("every worker"), left_out)
    reasons = [answer.reasons.get(name, "no plan fits the workers")] if can_plan(sha, manifest, nodes, book) else []
    return "unavailable", _failures("; ".join(one for one in (*reasons, failed, barred.why()) if one), left_out)


def _failures(reason: str, left_out: Sequence[Node]) -> str:
    why = {node.name: "it is drained" if node.drained else node.failure for node in left_out}
    return "; ".join([reason, *(f"{name} is left out for now: {said}" for name, said in why.items())])
