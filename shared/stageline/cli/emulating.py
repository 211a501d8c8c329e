"""What an emulation needs of the rest: the importer, the catalogue, and the planner's prediction."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stageline.bench.machine import machine
from stageline.bench.report import Settings
from stageline.blobs import BlobStore
from stageline.catalogue import ClusterCatalogue, Report
from stageline.cli.importing import importing
from stageline.emulation.course import Course
from stageline.emulation.record import Placement
from stageline.emulation.report import describe
from stageline.emulation.site import Images, Site
from stageline.emulation.spec import Emulation
from stageline.errors import NotReadyError
from stageline.manifest import ModelManifest
from stageline.plan import ModelPlan

if TYPE_CHECKING:
    from stageline.cli.planfigures import Figures
    from stageline_coordinator.planner import Problem, StageAssignment

SERVING_S = 120.0
UPLOAD_MBPS_SPARE = 3.0
"""Weights travel over the boxes' links: so many times longer than the rates allow is waited for."""

LINKS_S = 60.0
POLL_S = 0.5
ARRIVALS = "poisson"


@dataclass(frozen=True)
class Result:
    """The report as JSON values; where there is a plan, the last one's figures and its problem (JSON)."""

    report: dict[str, Any]
    plan: Figures | None
    problem: str


def emulate(emulation: Emulation, images: Images, report: Report) -> Result:
    """Build the cluster, serve the model on it, measure, and remove all of it. Raises what any of that raises."""
    with Site(emulation, images) as site:
        subject = emulation.subject
        with importing(
            subject.source, name=subject.name, random_weights=subject.random_weights, task=None,
            progress=lambda step, part: report(f"importing {subject.name}: {step}", part),
        ) as (manifest, blobs):  # fmt: skip
            site.start(report)
            serve(site, manifest, blobs, report)
        record = Course(site, settings_of(emulation), report).run()
    about = {"date": time.strftime("%Y-%m-%d"), "machine": machine()}
    last = next((phase.placement for phase in reversed(record.phases) if phase.placement.problem), Placement())
    described = describe(emulation, record, predict, about)
    busy = {node["node"]: node["cpu"] for node in described["utilisation"]}
    return Result(described, _figures(emulation.name, last, busy), last.problem)


def settings_of(emulation: Emulation) -> Settings:
    """The workload as the load generator takes it."""
    load = emulation.workload
    return Settings(
        emulation.subject.name, load.concurrency, load.rate_rps, ARRIVALS, load.duration_s, load.warmup_s, load.batch,
        load.seed,
    )  # fmt: skip


def serve(site: Site, manifest: ModelManifest, blobs: BlobStore, report: Report) -> None:
    """Register the model; until it is served and the links are measured. Raises as `ClusterCatalogue.wait` does."""
    catalogue = ClusterCatalogue(site.admin)
    address = catalogue.put(manifest, blobs, report)
    weights = sum(block.weight_bytes for block in manifest.blocks)
    slowest = min((box.link.down_mbps for box in site.emulation.boxes if box.link.down_mbps), default=math.inf)
    loading_s = UPLOAD_MBPS_SPARE * 8 * weights / 1e6 / slowest
    catalogue.wait(manifest.name, address, SERVING_S + site.ready_s + loading_s, report)
    if site.emulation.delays_ms:
        return  # the coordinator does not measure links that pass a proxy
    deadline = time.monotonic() + LINKS_S
    while not _linked(site, manifest.name) and time.monotonic() < deadline:
        report("measuring links", 1.0)
        time.sleep(POLL_S)


def _linked(site: Site, name: str) -> bool:
    """Whether all links are measured, so that plans reckon with them."""
    try:
        problem = json.loads(site.admin.problem([name]))
    except NotReadyError:
        return False
    return "ingress" in problem and ("links" in problem or len(problem["nodes"]) == 1)


def predict(placement: Placement) -> float | None:
    """Requests per second that the planner expects of the running plan; None where it cannot run."""
    from stageline_coordinator.planner.evaluate import evaluate

    problem, stages = _parsed(placement)
    if problem is None or placement.plan is None or not stages:
        return None
    found = evaluate(problem, {placement.plan.name: stages})
    return 1 / found.bottleneck_s if not found.faults and 0 < found.bottleneck_s < math.inf else None


def _figures(title: str, placement: Placement, busy: dict[str, float]) -> Figures | None:
    from stageline.cli.plandescribe import Claim, describe_plan

    problem, stages = _parsed(placement)
    if problem is None or placement.plan is None or not stages:
        return None
    return describe_plan(title, problem, {placement.plan.name: stages}, Claim(placement.plan.bound_s or None), busy)


def _parsed(placement: Placement) -> tuple[Problem | None, Sequence[StageAssignment]]:
    """The planner's problem, and the running plan in its terms."""
    from stageline_coordinator.planner import Problem

    if not placement.problem or placement.plan is None:
        return None, ()
    return Problem.from_json(json.loads(placement.problem)), assigned(placement.plan)


def assigned(plan: ModelPlan) -> tuple[StageAssignment, ...]:
    """A running plan's stages as the planner calls them."""
    from stageline_coordinator.planner import StageAssignment

    return tuple(
        StageAssignment((one.start, one.end), tuple(each.node for each in one.replicas), one.codec or "none")
        for one in plan.stages
    )
