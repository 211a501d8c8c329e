"""Resident memory of every process, idle and after serving ResNet-50, and the seconds until things are ready."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from cluster import BenchCluster
from common import machine, progress, report, say, significant
from stageline import Client
from stageline.blobs import BlobStore
from stageline.embedded.processes import group_members, read_stat
from stageline.manifest import ModelManifest
from stageline.plan import ModelPlan
from stageline_stage.importer import import_module
from stageline_stage.zoo import IMAGE_SIZE, resnet50

MB = 1e6
BARS_MB = {"coordinator": 80.0, "gateway": 80.0, "agent": 60.0}
WEIGHT_FACTOR = 1.3
BUFFERED_ITEMS = 4
"""Items that a stage has room for: two that came in, two that go out."""
SETTLE_S = 2.0
REQUESTS = 40

Rows = dict[str, dict[str, float]]


def resident(pid: int) -> dict[str, float]:
    """MB resident, and how much of it is memory of the process's own rather than pages of files."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {
        "rss_mb": significant(int(fields["VmRSS"].split()[0]) * 1024 / MB, 4),
        "anonymous_mb": significant(int(fields["RssAnon"].split()[0]) * 1024 / MB, 4),
    }


def measure(bench: BenchCluster) -> Rows:
    """Every process of the cluster by name: services, agents, executors, and other children."""
    nodes = {row.node: row for row in bench.admin.nodes().nodes}
    rows: Rows = {}
    for process in bench.cluster.state.processes:
        executors = nodes[process.name].executors if process.name in nodes else ()
        label = f"agent {process.name}" if process.role == "stage" else process.name
        rows[label] = resident(process.pid)
        for executor in executors:
            rows[f"executor {process.name}"] = resident(executor.pid)
        known = {process.pid, *(executor.pid for executor in executors)}
        for pid in sorted(set(members(process.pid)) - known):
            rows[f"child of {label} ({command_of(pid)})"] = resident(pid)
    return rows


def members(leader: int) -> list[int]:
    """Live processes of the leader's process group."""
    stat = read_stat(leader)
    return [member.pid for member in group_members(leader, stat.started if stat else 0)]


def command_of(pid: int) -> str:
    """The module that a Python process runs."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return words[words.index("-m") + 1] if "-m" in words else words[0].rsplit("/", 1)[-1]


def torch_alone() -> float:
    """MB resident after nothing but importing torch, with one thread."""
    code = (
        "import torch, pathlib; torch.set_num_threads(1); "
        "print(pathlib.Path('/proc/self/status').read_text().split('VmRSS:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024 / MB


def allowed(manifest: ModelManifest, plan: ModelPlan, torch_mb: float) -> dict[str, dict[str, float]]:
    """What each stage's executor may have: torch, 1.3 times the weights, activations."""
    found = {}
    widest = max(manifest.cut_bytes(cut) for cut in range(len(manifest.blocks) + 1))
    for stage in plan.stages:
        workspace = max(block.workspace_bytes for block in manifest.blocks[stage.start : stage.end])
        activations = (workspace + BUFFERED_ITEMS * widest) / MB
        weights = stage.weight_bytes / MB
        found[f"executor {stage.replicas[0].node}"] = {
            "weights_mb": significant(weights, 4),
            "activations_mb": significant(activations, 4),
            "allowed_mb": significant(torch_mb + WEIGHT_FACTOR * weights + activations, 4),
        }
    return found


def misses(idle: Rows, limits: dict[str, dict[str, float]], after: Rows) -> list[str]:
    """Whatever is larger than it may be, in words."""
    found = []
    for name, row in idle.items():
        bar = BARS_MB.get(name.split()[0])
        if bar is not None and row["rss_mb"] >= bar:
            found.append(f"{name}: {row['rss_mb']} MB idle, the bar is {bar:g}")
    for name, limit in limits.items():
        if after[name]["rss_mb"] > limit["allowed_mb"]:
            found.append(f"{name}: {after[name]['rss_mb']} MB after serving, the bar is {limit['allowed_mb']}")
    return found


def serve_images(bench: BenchCluster, name: str) -> None:
    """Some requests, four at a time."""
    image = {"pixel_values": np.zeros((1, 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)}
    with Client(bench.gateway) as client:
        for _ in client.infer_many(name, (image for _ in range(REQUESTS)), concurrency=4):
            pass


@click.command()
@click.option("--nodes", default=2, show_default=True, help="Workers.")
@click.option("--save", is_flag=True, help="Keep the result under benchmarks/results/.")
def main(nodes: int, save: bool) -> None:
    """Measure resident memory and start-up; the result is JSON on standard output."""
    result: dict[str, Any] = {"machine": machine(), "unit": "MB (10^6 bytes), VmRSS"}
    with tempfile.TemporaryDirectory(prefix="stageline-bench-") as folder, progress("footprint", 5) as tick:
        torch_mb = torch_alone()
        tick()
        store = BlobStore(Path(folder))
        module, signature = resnet50()
        manifest = import_module(module, signature, name="resnet50", store=store)
        del module
        tick()
        say("starting")
        bench = BenchCluster(nodes)
        bench.store = store
        tick()
        try:
            time.sleep(SETTLE_S)
            idle = measure(bench)
            begun = time.monotonic()
            plan = bench.serve(manifest, stages=nodes)
            ready_s = time.monotonic() - begun
            tick()
            serve_images(bench, "resnet50")
            time.sleep(SETTLE_S)
            after = measure(bench)
            limits = allowed(manifest, plan, torch_mb)
            tick()
        finally:
            bench.close()
    result |= {
        "torch_import_mb": significant(torch_mb, 4),
        "idle": idle,
        "after_resnet50": after,
        "executors_may_have": limits,
        "misses": misses(idle, limits, after),
        "start_to_registered_s": significant(bench.start_s, 3),
        "put_model_to_serving_s": significant(ready_s, 3),
    }
    report("footprint", result, save=save)


if __name__ == "__main__":
    main()
