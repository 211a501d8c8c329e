"""ResNet-50 on two workers: how much of the bottleneck stage's time turns into throughput.

Throughput times the mean seconds of the slowest stage, both measured in place in the same run, is 1 when that stage
never waits. Beside it torch.distributed.pipelining over gloo with the same cut. One torch thread per worker.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import torch

from cluster import BenchCluster
from common import interleave, machine, progress, ratio, report, say, significant, summary
from contenders.gloo_stages import GlooStages
from stageline import Client
from stageline.blobs import BlobStore
from stageline.client.core import InferResult
from stageline.manifest import ModelManifest
from stageline_stage.importer import Signature, import_module
from stageline_stage.zoo import resnet50

CASES = {"~50 ms stages": 224, "~5 ms stages": 32}
"""Height and width of the image."""
BATCH = 1
WINDOW = 8
SKIP = 8
"""Answers at the start and requests at the end that do not count: the pipeline fills and drains."""


@dataclass
class Served:
    """A model on a cluster, and what a run of it showed."""

    client: Client
    name: str
    size: int
    stages: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def run(self, items: int) -> float:
        """Throughput times seconds of the slowest stage."""
        inputs = {
            "pixel_values": np.random.default_rng(1).standard_normal((BATCH, 3, self.size, self.size), np.float32)
        }
        waiting: deque[Future[InferResult]] = deque()
        ends: list[float] = []
        results: list[InferResult] = []
        for number in range(items + WINDOW):
            if number >= WINDOW:
                results.append(waiting.popleft().result(60))
                ends.append(perf_counter())
            if number < items:
                waiting.append(self.client.submit(self.name, inputs))
        counted = slice(SKIP, items - WINDOW)
        timings = [r.timings.stages for r in results[counted] if r.timings is not None]
        means = [statistics.mean(stage.compute_us for stage in column) / 1e6 for column in zip(*timings, strict=True)]
        rate: float = (items - WINDOW - SKIP - 1) / (ends[items - WINDOW - 1] - ends[SKIP])
        self.stages.append(means)
        self.rates.append(rate)
        return float(rate * max(means))


@dataclass
class Gloo:
    """The same through gloo."""

    ranks: GlooStages
    stages: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def run(self, items: int) -> float:
        """Throughput times seconds of the slowest stage."""
        rate, means = self.ranks.run(items)
        self.stages.append(means)
        self.rates.append(rate)
        return float(rate * max(means))


def figures(runs: Served | Gloo, efficiency: list[float]) -> dict[str, Any]:
    """What is reported of one contender; its first runs, which only warm up, are left out."""
    rounds = len(efficiency)
    stages = [statistics.median(column) * 1e3 for column in zip(*runs.stages[-rounds:], strict=True)]
    return {
        "efficiency": summary(efficiency),
        "items_per_s": summary(runs.rates[-rounds:]),
        "stage_ms": [significant(ms, 4) for ms in stages],
    }


def imported(store: BlobStore, size: int) -> ModelManifest:
    """ResNet-50 for images of `size` by `size` pixels."""
    module, _ = resnet50()
    signature = Signature.batched({"pixel_values": torch.randn(2, 3, size, size)})
    return import_module(module, signature, name=f"resnet50-{size}", store=store)


def measure(size: int, rounds: int, seconds: float, folder: Path) -> dict[str, Any]:
    """One case: a cluster and two gloo ranks that take turns."""
    bench = BenchCluster(nodes=2)
    bench.store = store = BlobStore(folder)
    try:
        manifest = imported(store, size)
        cut = bench.serve(manifest, stages=2).stages[0].end
        ranks = GlooStages(folder, manifest, cut, BATCH)
        with Client(bench.gateway) as client:
            ranks.start()
            try:
                return _take_turns(Served(client, manifest.name, size), Gloo(ranks), manifest, cut, rounds, seconds)
            finally:
                ranks.stop()
    finally:
        bench.close()


def _take_turns(
    ours: Served, gloo: Gloo, manifest: ModelManifest, cut: int, rounds: int, seconds: float
) -> dict[str, Any]:
    ours.run(4 * WINDOW)
    gloo.run(2 * WINDOW)
    ours.run(4 * WINDOW)
    items = max(4 * WINDOW, round(seconds * ours.rates[-1]))
    cases: dict[str, Callable[[], float]] = {"stageline": lambda: ours.run(items), "gloo": lambda: gloo.run(items)}
    with progress(manifest.name, rounds * len(cases)) as tick:
        found = interleave(cases, rounds, tick)
    return {
        "model": f"{manifest.name}, batch {BATCH}, cut after block {cut} of {len(manifest.blocks)}",
        "cut": manifest.blocks[cut - 1].name,
        "bytes_crossing": manifest.cut_bytes(cut),
        "stageline": figures(ours, found["stageline"]),
        "torch-pipelining": figures(gloo, found["gloo"]),
        "ratio of items/s": ratio(ours.rates[-rounds:], gloo.rates[-rounds:]),
    }


@click.command()
@click.option("--rounds", default=5, show_default=True, help="How often each contender has its turn.")
@click.option("--seconds", default=6.0, show_default=True, help="About how long a turn takes.")
@click.option("--case", "chosen", type=click.Choice(list(CASES)), multiple=True, help="Which stages; both by default.")
@click.option("--save", is_flag=True, help="Keep the result under benchmarks/results/.")
def main(rounds: int, seconds: float, chosen: tuple[str, ...], save: bool) -> None:
    """Measure how full the pipeline is; the result is JSON on standard output."""
    torch.set_num_threads(1)
    transport = {
        "stageline": "client over TCP, gateway, ZeroMQ over ipc, eager torch, one thread per worker, no batching",
        "torch-pipelining": GlooStages.transport + ", one thread per rank",
    }
    result: dict[str, Any] = {"machine": machine(), "transport": transport, "window": WINDOW, "cases": {}}
    for title in chosen or CASES:
        say(f"{title}: importing ResNet-50 at {CASES[title]} x {CASES[title]} and starting")
        with tempfile.TemporaryDirectory(prefix="stageline-bench-") as folder:
            result["cases"][title] = measure(CASES[title], rounds, seconds, Path(folder))
    report("pipeline", result, save=save)


if __name__ == "__main__":
    main()
