"""The demo from beginning to end: prepare, start, place, steady load, a kill under load, the verdict."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stageline.admin import AdminClient
from stageline.catalogue import ClusterCatalogue, Report
from stageline.demo.fault import Fault, follow, kill, recovery
from stageline.demo.figures import Phases, count, figures, placed
from stageline.demo.load import DEADLINE_S, Stream
from stageline.demo.prepare import Prepared, Subject, prepare
from stageline.demo.report import Tally
from stageline.demo.watch import Broadcasts
from stageline.embedded import Cluster, ClusterSpec, start
from stageline.errors import ClusterError, NotReadyError
from stageline.messages import NodeRow
from stageline.plan import Plan

GATEWAY: dict[str, Any] = {"window": 64, "window_bytes": 1 << 30, "max_batch": 4}
"""A window wide enough that at least 20 requests are dispatched, not waiting at the gateway, when a worker dies."""

NODES = 3
SERVING_S = 120.0
RECOVERY_S = 60.0


@dataclass(frozen=True)
class Sizes:
    """How much load: distinct images, requests of the steady phase, requests under way at once."""

    images: int = 24
    steady: int = 72
    steady_concurrency: int = 6
    digits_concurrency: int = 8
    fault_concurrency: int = 40
    after_recovery: int = 24


class Narrator(Protocol):
    """Tells the user what happens."""

    def step(self, number: int, text: str) -> None:
        """A step begins."""

    def say(self, text: str) -> None:
        """A fact."""

    def plan(self, title: str, plan: Plan) -> None:
        """A placement."""

    def progress(self, text: str) -> Any:
        """A context manager that gives a `Report`."""


def run(narrator: Narrator, cache: Path, *, sizes: Sizes = Sizes(), keep: bool = False) -> dict[str, Any]:
    """Run the demo; the result is what ``--json`` writes. Raises `StagelineError` when it cannot get so far."""
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(keep))
        narrator.step(1, "train and import the models")
        with narrator.progress("preparing") as report:
            prepared = prepare(directory / "prepared", cache, sizes.images, report)
        for name, subject in prepared.subjects.items():
            narrator.say(_introduce(name, subject))
        narrator.step(2, f"start coordinator, gateway and {NODES} workers; place the models")
        cluster = _start(stack, directory, narrator, keep)
        plan = _register(cluster, prepared, narrator)
        narrator.plan("plan", plan)
        return _Demo(narrator, cluster, prepared, sizes, plan).run()


@contextmanager
def _directory(keep: bool) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="stageline-demo-"))
    try:
        yield directory
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _start(stack: ExitStack, directory: Path, narrator: Narrator, keep: bool) -> Cluster:
    spec = ClusterSpec(data_dir=directory / "cluster", nodes=NODES, settings={"gateway": GATEWAY})
    with narrator.progress("starting") as report:
        cluster = start(spec, lambda text: report(text, 0.0))
    if keep:
        narrator.say(f"the cluster stays: stageline down --data-dir {spec.data_dir}")
    else:
        stack.callback(cluster.stop)
    pids = ", ".join(f"{process.name} {process.pid}" for process in cluster.state.processes)
    narrator.say(f"processes: {pids}")
    return cluster


def _register(cluster: Cluster, prepared: Prepared, narrator: Narrator) -> Plan:
    """Upload and register both models; the plan that serves them."""
    with AdminClient(cluster.state.coordinator) as admin, narrator.progress("placing") as report:
        catalogue = ClusterCatalogue(admin)
        manifests = {
            name: catalogue.put(subject.manifest, prepared.blobs, report) for name, subject in prepared.subjects.items()
        }
        deadline = time.monotonic() + SERVING_S
        while True:
            for name, manifest in manifests.items():
                catalogue.wait(name, manifest, SERVING_S, report)
            plan = admin.plan()
            if all(model.status == "serving" for model in plan.models):
                return plan
            if time.monotonic() > deadline:
                raise NotReadyError("the models are not served together: look at the coordinator's log")


class _Demo:
    def __init__(self, narrator: Narrator, cluster: Cluster, prepared: Prepared, sizes: Sizes, plan: Plan) -> None:
        self._narrator = narrator
        self._cluster = cluster
        self._prepared = prepared
        self._sizes = sizes
        self._before = placed(plan, "resnet50")
        self._plan = plan

    def run(self) -> dict[str, Any]:
        sizes = self._sizes
        self._narrator.step(3, "the held-out digits and ResNet-50 images at once; every answer is checked")
        held_out = len(self._prepared.labels)
        calm = [self._stream("digits", 1, held_out), self._stream("resnet50", 1, sizes.images)]
        with self._narrator.progress("one at a time") as report:
            self._finish(calm, report)
        self._narrator.say("one at a time: " + _describe(count(calm, self._prepared)))
        steady = [
            self._stream("digits", sizes.digits_concurrency, held_out),
            self._stream("resnet50", sizes.steady_concurrency, sizes.steady),
        ]
        with self._narrator.progress("steady load") as report:
            self._finish(steady, report)
        self._narrator.say("many at a time: " + _describe(count(steady, self._prepared)))
        self._narrator.step(4, "kill the worker of a middle stage under load")
        stressed = [
            self._stream("digits", sizes.digits_concurrency, None),
            self._stream("resnet50", sizes.fault_concurrency, None),
        ]
        fault = self._fault(stressed)
        self._narrator.step(5, "the verdict")
        phases = Phases(calm, steady, stressed)
        return figures(phases, fault, self._prepared, self._plan, self._nodes())

    def _nodes(self) -> tuple[NodeRow, ...]:
        with AdminClient(self._cluster.state.coordinator) as admin:
            return admin.nodes().nodes

    def _stream(self, model: str, concurrency: int, count: int | None) -> Stream:
        images = self._prepared.subjects[model].inputs
        return Stream(model, images, self._cluster.state.gateway, concurrency, count)

    def _finish(self, streams: list[Stream], report: Report) -> None:
        for stream in streams:
            stream.start()
        total = sum(stream.count or 0 for stream in streams)
        while not all(stream.wait(0.1) for stream in streams):
            report("", sum(stream.answered() for stream in streams) / total)

    def _fault(self, streams: list[Stream]) -> Fault:
        gateway = self._cluster.state.process("gateway")
        with AdminClient(self._cluster.state.coordinator) as admin:
            broadcasts_at = admin.welcome.plan
        with Broadcasts(broadcasts_at) as broadcasts, self._narrator.progress("under load") as report:
            for stream in streams:
                stream.start()
            try:
                report("waiting for requests in flight", 0.0)
                fault = kill(self._cluster, gateway.http if gateway else "", self._before, DEADLINE_S)
                report(f"{fault.node} was killed", 0.3)
                resnet = streams[1]

                def recovered() -> bool:
                    return resnet.answered() > answered + self._sizes.after_recovery

                answered = resnet.answered() + self._sizes.fault_concurrency
                fault = follow(fault, self._before.name, broadcasts, recovered, RECOVERY_S)
                report("waiting for the last answers", 0.8)
            finally:
                for stream in streams:
                    stream.finish()
            for stream in streams:
                stream.wait(DEADLINE_S + 30)
        fault = dataclasses.replace(fault, recovery_s=recovery(fault, self._before, streams[1].samples))
        self._tell_fault(fault)
        return fault

    def _tell_fault(self, fault: Fault) -> None:
        say = self._narrator.say
        say(
            f"killed {fault.node} (stage {fault.stage} of resnet50; pids {', '.join(map(str, fault.pids))}) with"
            f" {fault.in_flight} requests in flight on it, {fault.waiting} batches in its queue"
        )
        say(f"after {fault.suspect_s:.2f} s it was suspected, after {fault.gone_s:.2f} s given up")
        if fault.placement is None:
            raise ClusterError(f"no plan without {fault.node} within {RECOVERY_S:g} s: look at the coordinator's log")
        say(f"after {fault.replanned_s:.2f} s came a new plan, after {fault.recovery_s:.2f} s the first answer by it")
        with AdminClient(self._cluster.state.coordinator) as admin:
            self._narrator.plan("new plan", admin.plan())


def _introduce(name: str, subject: Subject) -> str:
    tolerance = subject.manifest.tolerance
    return (
        f"{name}: {len(subject.manifest.blocks)} blocks; tolerance of batched answers rtol {tolerance.rtol:g}, atol"
        f" {tolerance.atol:g} (the unsplit model's own move by {subject.shift:.1e} in a batch); answers to different"
        f" images are at least {subject.judge.separation():.0f} tolerances apart"
    )


def _describe(total: Tally) -> str:
    return (
        f"{total.answered} of {total.requests} answered, {total.wrong} wrong; {total.bit_equal} bit-equal"
        f" ({total.alone} were computed alone), the largest deviation {total.excess:.3f} of the tolerance"
    )
