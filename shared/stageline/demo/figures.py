"""The demo's figures, as ``--json`` writes them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stageline.bench.recorder import percentile
from stageline.demo.fault import Fault
from stageline.demo.load import Stream
from stageline.demo.prepare import Prepared
from stageline.demo.report import Tally, accuracy, latencies_ms, speed, tally, utilisation
from stageline.errors import ClusterError
from stageline.messages import NodeRow
from stageline.plan import ModelPlan, Plan


@dataclass(frozen=True)
class Phases:
    """The streams of each phase: one request at a time, many at a time, and while a worker was killed."""

    calm: list[Stream]
    steady: list[Stream]
    stressed: list[Stream]

    @property
    def all(self) -> list[Stream]:
        """Of all phases."""
        return self.calm + self.steady + self.stressed


def figures(phases: Phases, fault: Fault, prepared: Prepared, plan: Plan, nodes: Sequence[NodeRow]) -> dict[str, Any]:
    """Counts are of all phases; speed and utilisation of the steady phase; `fault` of what the kill did."""
    tolerance = prepared.subjects["resnet50"].manifest.tolerance
    digits = [sample for stream in phases.calm + phases.steady if stream.model == "digits" for sample in stream.samples]
    return {
        **dataclasses.asdict(count(phases.all, prepared)),
        "accuracy": round(accuracy(digits, prepared.labels), 4),
        **speed({stream.model: stream.samples for stream in phases.steady}),
        "recovery_s": round(fault.recovery_s, 3),
        "killed_node": fault.node,
        "fault": _fault(fault, phases.stressed),
        "utilisation": _utilisation(phases.steady, plan),
        "tolerance": {"rtol": tolerance.rtol, "atol": tolerance.atol},
        "errors": sorted({sample.error for stream in phases.all for sample in stream.samples if sample.error}),
        "machine": _machine(nodes, prepared.torch),
    }


def count(streams: Sequence[Stream], prepared: Prepared) -> Tally:
    """The outcomes of all these streams."""
    total = Tally()
    for stream in streams:
        total += tally(stream.sent, stream.samples, prepared.subjects[stream.model].judge)
    return total


def placed(plan: Plan, name: str) -> ModelPlan:
    """A model's placement. Raises `ClusterError` if the plan lacks it."""
    model = plan.model(name)
    if model is None:
        raise ClusterError(f"the plan has no {name}: look at the coordinator's log")
    return model


def _fault(fault: Fault, stressed: Sequence[Stream]) -> dict[str, Any]:
    times = [time_ms for stream in stressed for time_ms in latencies_ms(stream.samples)]
    return {
        "stage": fault.stage,
        "pids": list(fault.pids),
        "in_flight": fault.in_flight,
        "waiting": fault.waiting,
        "suspect_s": round(fault.suspect_s, 3),
        "gone_s": round(fault.gone_s, 3),
        "replanned_s": round(fault.replanned_s, 3),
        "p99_ms": round(percentile(times, 99), 3),
    }


def _utilisation(streams: Sequence[Stream], plan: Plan) -> list[dict[str, Any]]:
    rows = []
    for stream in streams:
        stages = placed(plan, stream.model).stages
        for number, share in enumerate(utilisation(stream.samples)):
            node = stages[number].replicas[0].node if number < len(stages) else ""
            rows.append({"model": stream.model, "stage": number, "node": node, "utilisation": round(share, 4)})
    return rows


def _machine(nodes: Sequence[NodeRow], torch: str) -> dict[str, Any]:
    cpu = next((node.cpu for node in nodes if node.cpu), "")
    cores = len(os.sched_getaffinity(0))
    return {"cpu": cpu, "cores": cores, "nodes": len(nodes), "torch": torch, "threads_per_worker": 1}
