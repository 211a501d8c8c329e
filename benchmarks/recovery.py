"""How long it takes until a death is made up for: with a standby, from cached blocks, with blocks to fetch.

`python benchmarks/recovery.py --help` says what can be chosen. One of two workers is killed, agent and executor, while
callers keep asking; its stages serve again when the first request is answered that was sent after the kill.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from common import machine, progress, report, say, significant
from stageline import Client
from stageline.admin import AdminClient
from stageline.blobs import BlobStore
from stageline.embedded.launch import Cluster, ClusterSpec, start
from stageline.errors import StagelineError
from stageline.manifest import ModelManifest, canonical_json
from stageline.plan import ModelPlan
from stageline_stage.importer import Signature, import_module

LAYERS = 8
WIDTHS = (1024, 2048, 3072)
"""Of square layers: 34, 134 and 302 MB of weights, half of which the dead worker had."""
CALLERS = 4
NODES = ("stage-0", "stage-1")
PATIENCE_S = 90.0
FLOWS = 40

STANDBY, CACHED, FETCHED = "standby", "cached", "fetched"


class Tower(torch.nn.Module):
    """Residual square layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return {"y": x}


@dataclass(frozen=True)
class Case:
    """`mode`: what the survivor has of the dead worker's stage: loaded, in its cache, or nothing."""

    mode: str
    width: int


class Callers:
    """`CALLERS` who always wait for their answers; `sent` and answered times of each request, monotonic seconds."""

    def __init__(self, gateway: str, model: str, width: int) -> None:
        self.answers: list[tuple[float, float]] = []
        self._client = Client(gateway)
        self._model, self._x = model, np.ones((1, width), dtype=np.float32)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def first_after(self, when: float) -> float | None:
        """When a request was first answered that was sent after that."""
        return min((at for sent, at in self.answers if sent > when), default=None)

    def close(self) -> None:
        """Wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            sent = time.monotonic()
            try:
                self._client.infer(self._model, {"x": self._x}, deadline_s=PATIENCE_S)
            except StagelineError as error:
                say(f"an error: {error}")
                return
            self.answers.append((sent, time.monotonic()))


def once(case: Case, store: BlobStore, manifest: ModelManifest, blobs: Path) -> dict[str, float]:
    """One death: seconds until answers, and megabytes that the survivor fetched for them."""
    with _serving(case, store, manifest, blobs) as (cluster, plan):
        callers = Callers(cluster.state.gateway, manifest.name, case.width)
        try:
            _wait("answers", lambda: len(callers.answers) >= FLOWS)
            victim = plan.stages[-1].replicas[0].node
            lost = sum(stage.weight_bytes for stage in plan.stages if stage.replicas[0].node == victim)
            record = cluster.state.process(victim)
            assert record is not None
            killed = time.monotonic()
            os.killpg(record.pid, signal.SIGKILL)
            _wait("an answer after the death", lambda: callers.first_after(killed) is not None)
            answered = callers.first_after(killed)
            assert answered is not None
            return {"seconds": answered - killed, "mb": lost / 1e6}
        finally:
            callers.close()


@contextmanager
def _serving(case: Case, store: BlobStore, manifest: ModelManifest, blobs: Path) -> Iterator[tuple[Cluster, ModelPlan]]:
    with tempfile.TemporaryDirectory(prefix="stageline-bench-") as name:
        folder = Path(name)
        caches = {node: folder / f"cache-{node}" for node in NODES}
        for cache in caches.values() if case.mode == CACHED else ():
            shutil.copytree(blobs, cache)
        settings: dict[str, Mapping[str, Any]] = {node: {"cache_dir": cache} for node, cache in caches.items()}
        settings["coordinator"] = {"standbys": int(case.mode == STANDBY)}
        spec = ClusterSpec(folder / "data", nodes=len(NODES), settings=settings)
        with start(spec) as cluster, AdminClient(cluster.state.coordinator) as admin:
            sha = store.put_bytes(canonical_json(manifest.to_json()))
            admin.upload(store, [*manifest.blobs(), sha])
            admin.put_model(sha)
            _wait("the model is served", lambda: _ready(admin, manifest.name, case) is not None)
            plan = _ready(admin, manifest.name, case)
            assert plan is not None
            yield cluster, plan


def _ready(admin: AdminClient, name: str, case: Case) -> ModelPlan | None:
    plan = admin.plan().model(name)
    if plan is None or len(plan.stages) != len(NODES):
        return None
    guarded = all(stage.standbys for stage in plan.stages)
    return plan if guarded or case.mode != STANDBY else None


def _wait(what: str, holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(0.002)


def figures(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Median and extremes of the seconds."""
    seconds = [run["seconds"] for run in runs]
    return {
        "mb": significant(runs[0]["mb"], 3),
        "median_s": significant(statistics.median(seconds), 3),
        "largest_s": significant(max(seconds), 3),
        "runs": [significant(one, 3) for one in seconds],
    }


def per_mb(found: Mapping[Case, Sequence[Mapping[str, float]]]) -> float:
    """Seconds per megabyte to fetch, by least squares over all runs of that mode."""
    runs = [run for case, some in found.items() if case.mode == FETCHED for run in some]
    slope = np.polyfit([run["mb"] for run in runs], [run["seconds"] for run in runs], 1)[0]
    return significant(float(slope), 3)


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Deaths of each case.")
@click.option("--save", is_flag=True, help="Keep the result under benchmarks/results/.")
def main(rounds: int, save: bool) -> None:
    """Measure recoveries; the result is JSON on standard output."""
    middle = WIDTHS[1]
    cases = [Case(STANDBY, middle), Case(CACHED, middle), *(Case(FETCHED, width) for width in WIDTHS)]
    found: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="stageline-bench-") as name:
        models = {}
        for width in WIDTHS:
            blobs = Path(name) / str(width)
            store, example = BlobStore(blobs), torch.zeros(2, width)
            module = Tower(width).eval()
            models[width] = (store, import_module(module, Signature.batched({"x": example}), name="tower", store=store))
        with progress("recovery", rounds * len(cases)) as tick:
            for _ in range(rounds):
                for case in cases:
                    store, manifest = models[case.width]
                    found[case].append(once(case, store, manifest, Path(name) / str(case.width)))
                    say(f"{case.mode}, {found[case][-1]['mb']:.0f} MB: {found[case][-1]['seconds']:.3f} s")
                    tick()
    result = {f"{case.mode} {figures(runs)['mb']:g} MB": figures(runs) for case, runs in found.items()}
    report("recovery", {"machine": machine(), "cases": result, "s_per_mb": per_mb(found)}, save=save)


if __name__ == "__main__":
    main()
