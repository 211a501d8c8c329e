"""How several gateways share a worker that cannot serve all that they are asked.

Each gateway has callers of its own in a closed loop. *alone*: one gateway with few callers has the worker to itself.
*alike*: three gateways have as many each. *one crowd*: the first has six times as many as each of the others. Workers
give each gateway the same computing time, so a crowd gets no more than the few at another gateway, and waits longer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import torch

from cluster import BenchCluster
from common import machine, report, say, significant
from stageline import Client
from stageline.bench.drive import Driver
from stageline.bench.inputs import make_pool
from stageline.bench.recorder import Figures, Recorder
from stageline.bench.schedule import ClosedLoop, Window
from stageline.blobs import BlobStore
from stageline.errors import StagelineError
from stageline.plan import ModelPlan
from stageline_stage.importer import Signature, import_module
from stageline_stage.zoo import resnet50

FEW, MANY, WARMUP_S, READY_S = 8, 48, 8.0, 60.0
CASES = {"alone": (FEW,), "alike": (FEW, FEW, FEW), "one crowd": (MANY, FEW, FEW)}


@contextmanager
def gateway(coordinator: str, folder: Path, name: str) -> Iterator[str]:
    """Another gateway; its address for clients."""
    ready = folder / f"{name}.json"
    command = [sys.executable, "-m", "stageline_gateway", "--coordinator", coordinator, "--name", name]
    command += ["--port", "0", "--http-port", "0", "--max-batch", "1", "--batch-delay-ms", "0"]
    child = subprocess.Popen([*command, "--ready-file", str(ready)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + READY_S
        while not ready.exists():
            if time.monotonic() > deadline or child.poll() is not None:
                raise RuntimeError(f"{name} does not start")
            time.sleep(0.05)
        yield str(json.loads(ready.read_text())["client"])
    finally:
        child.terminate()
        child.wait()


def ask_once(address: str, plan: ModelPlan) -> None:
    """Until it is answered: then the gateway has the plan."""
    inputs = next(iter(make_pool(plan.signature, 1, 0)))
    with Client(address) as client:
        while True:
            try:
                client.infer(plan.name, inputs, deadline_s=READY_S)
                return
            except StagelineError:
                time.sleep(0.1)


def together(addresses: Sequence[str], callers: Sequence[int], plan: ModelPlan, seconds: float) -> list[Figures]:
    """What each gateway's callers saw in the same time."""
    window = Window(WARMUP_S, seconds)
    recorders = [Recorder(window) for _ in callers]
    inputs = make_pool(plan.signature, 1, 0)

    def drive(address: str, many: int, recorder: Recorder) -> None:
        with Client(address, retry=None) as client:
            submit = lambda one: client.submit(plan.name, one, deadline_s=60.0)  # noqa: E731
            Driver(submit, inputs, ClosedLoop(many, window.end_s), recorder, window.end_s).run()

    threads = [threading.Thread(target=drive, args=one) for one in zip(addresses, callers, recorders, strict=False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [recorder.figures() for recorder in recorders]


def jain(rates: Sequence[float]) -> float:
    """Jain's index of fairness (Jain, Chiu, Hawe 1984): 1 if all get the same, 1/n if one gets all."""
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


def told(figures: Sequence[Figures]) -> dict[str, Any]:
    """As JSON."""
    rates = [one.throughput_rps for one in figures]
    return {
        "per_s": [significant(rate, 4) for rate in rates],
        "p50_ms": [significant(one.latency.p50 * 1e3, 4) for one in figures],
        "p99_ms": [significant(one.latency.p99 * 1e3, 4) for one in figures],
        "jain": round(jain(rates), 4),
        "errors": sum(sum(one.errors.values()) for one in figures),
    }


@click.command()
@click.option("--seconds", default=8.0, show_default=True, help="How long each case is measured.")
@click.option("--size", default=32, show_default=True, help="Height and width of the image.")
@click.option("--save", is_flag=True, help="Keep the result under benchmarks/results/.")
def main(seconds: float, size: int, save: bool) -> None:
    """Measure how gateways share a worker; the result is JSON on standard output."""
    module, _ = resnet50()
    signature = Signature.batched({"pixel_values": torch.randn(2, 3, size, size)})
    bench = BenchCluster(nodes=1)
    with ExitStack() as stack:
        stack.callback(bench.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stageline-bench-")))
        bench.store = BlobStore(folder / "import")
        say(f"importing ResNet-50 at {size} x {size}")
        manifest = import_module(module, signature, name=f"resnet50-{size}", store=bench.store)
        plan = bench.serve(manifest, stages=1)
        coordinator = bench.cluster.state.coordinator
        others = [stack.enter_context(gateway(coordinator, folder, f"other-{i}")) for i in range(2)]
        addresses = [bench.gateway, *others]
        for address in addresses:
            ask_once(address, plan)
        found = {}
        for name, callers in CASES.items():
            say(f"{name}: {callers} callers")
            found[name] = {"callers": callers, **told(together(addresses, callers, plan, seconds))}
    report("sharing", {"machine": machine(), "model": f"{manifest.name} on one worker", "cases": found}, save=save)


if __name__ == "__main__":
    main()
