"""Do the planner's predictions hold? ResNet-50 and MiniLM on emulated clusters of unequal nodes and links.

Every worker has a CPU quota (cgroup v1) on one core, and workers and gateway send and receive tensors at a limited rate
(htb on the loopback of a network namespace of this benchmark's own, each service on an address of its own). Workers
measure their blocks, messages and links themselves; what the planner predicts for the running plan is compared with the
throughput that clients see: as profiled, before any traffic, and as refined by the traffic before the measurement.

Needs root, cgroups, iproute2 and util-linux; says so where they are missing. Nothing of it stays behind.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import click
import torch

from common import keep, kept_rows, machine, progress, report, say, significant, summary
from predictions_sites import MODELS, SITES, free_port, limit_rates, missing, models, quotas, spec, used_s
from stageline import Client
from stageline.admin import AdminClient
from stageline.blobs import BlobStore
from stageline.cli.emulating import assigned
from stageline.client.core import InferResult
from stageline.embedded.launch import Cluster, start
from stageline.manifest import ModelManifest, canonical_json
from stageline_coordinator.planner.evaluate import evaluate
from stageline_coordinator.planner.problem import Model, Problem
from stageline_coordinator.planner.solution import StageAssignment

WINDOW = 8
TOLERANCE = 0.15
SETTLE_S = 120.0
TRIES = 3
"""How often a plan may change while it is measured."""


def settled(admin: AdminClient, name: str, *, measured: bool = False) -> tuple[Problem, tuple[StageAssignment, ...]]:
    """The problem once the model is served and every link is known, every block on every node if `measured`, and the
    running plan."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        plan = admin.plan().model(name)
        if plan is not None and plan.status == "serving":
            problem = Problem.from_json(json.loads(admin.problem([name])))
            linked = (problem.links is not None or len(problem.nodes) == 1) and problem.ingress is not None
            if linked and (not measured or all(map(_measured, problem.models))):
                return problem, assigned(plan)
        time.sleep(0.5)
    raise RuntimeError(f"{name}: not served with all blocks and links known within {SETTLE_S:.0f} s")


def _measured(model: Model) -> bool:
    return all(math.isfinite(one) for block in model.blocks for one in block.seconds)


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
            profiled, _ = settled(admin, name, measured=True)
            throughput(client, name, inputs, warm_s)
            for _ in range(TRIES):
                _, before = settled(admin, name)
                begun, used = time.perf_counter(), used_s(groups)
                rates = [throughput(client, name, inputs, seconds) for _ in range(rounds)]
                spent = time.perf_counter() - begun
                cpus = [(now - then) / spent for then, now in zip(used, used_s(groups), strict=True)]
                refined, stages = settled(admin, name)
                if stages == before:
                    break
            used_cpus = [significant(one, 3) for one in cpus]
            yield {**_judged(title, name, profiled, refined, stages, rates), "used_cpus": used_cpus}


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
        "date": time.strftime("%Y-%m-%d"),
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


def place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a row is of: a later sitting replaces those of the same."""
    return row["site"], row["model"], json.dumps(row["plan"])


def of_model(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """How many different plans of a model were measured, and what came of their predictions."""
    mine = [row for row in rows if row["model"] == name]
    return {
        "plans": len(mine),
        "within": sum(row["within"] for row in mine),
        "within_as_profiled": sum(row["within_as_profiled"] for row in mine),
        "measured/predicted": sorted(row["measured/predicted"] for row in mine),
        "measured/profiled": sorted(row["measured/profiled"] for row in mine),
    }


def result(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that is reported."""
    ordered = sorted(rows, key=lambda row: list(SITES).index(row["site"]))
    by_model = {name: of_model(rows, name) for name in sorted({row["model"] for row in rows})}
    return {"machine": machine(), "tolerance": TOLERANCE, "window": WINDOW, "models": by_model, "rows": ordered}


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Measurements of each plan.")
@click.option("--seconds", default=5.0, show_default=True, help="How long one takes.")
@click.option("--warm", default=15.0, show_default=True, help="Seconds of traffic before them.")
@click.option("--only", type=click.Choice(list(SITES)), multiple=True, help="Which sites; all by default.")
@click.option("--model", type=click.Choice(MODELS), multiple=True, help="Which models; both by default.")
@click.option("--save", is_flag=True, help="Add to the rows of earlier sittings under benchmarks/results/.")
@click.option("--afresh", is_flag=True, help="Forget what earlier sittings kept of these sites and models.")
@click.option("--inside", is_flag=True, hidden=True)
def main(
    rounds: int,
    seconds: float,
    warm: float,
    only: tuple[str, ...],
    model: tuple[str, ...],
    save: bool,
    afresh: bool,
    inside: bool,
) -> None:
    """Compare predicted with measured bottlenecks; the result is JSON on standard output.

    Sittings add up: with --save one row per site, model and plan is kept, of the last sitting that measured it.
    """
    why = missing()
    if why:
        raise click.ClickException(why)
    if not inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, __file__, *sys.argv[1:], "--inside"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that cluster and cgroups are cleared away
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    torch.set_num_threads(1)
    chosen = only or tuple(SITES)
    again = {(title, name) for title in chosen for name in model or MODELS if afresh}
    rows = [row for row in kept_rows("predictions") if (row["site"], row["model"]) not in again] if save else []
    with tempfile.TemporaryDirectory(prefix="stageline-bench-") as folder:
        store = BlobStore(Path(folder))
        made = {name: one for name, one in models(store).items() if name in (model or MODELS)}
        with progress("predictions", len(chosen) * len(made)) as tick:
            for title in chosen:
                for row in compare(title, made, store, rounds, seconds, warm):
                    rows = [*(one for one in rows if place(one) != place(row)), row]
                    if save:
                        keep("predictions", result(rows))
                    tick()
    report("predictions", result(rows), save=save)


if __name__ == "__main__":
    main()
