"""A long time in which nothing is wrong but everything is slow: nobody may be suspected, evicted or killed for it.

A process per processor wants all of it, models are imported, loaded and removed all the time, and every data link is a
cable of 20 Mbps full of large activations. The coordinator's broadcasts are written down, the requests judged. Control
links are direct: a proxy that shares the processors stands still where a cable would not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stageline import Client
from stageline.blobs import BlobStore
from stageline.errors import StagelineError
from stageline.manifest import canonical_json
from stageline.plan import NodeView
from stageline_stage.importer import Signature, import_module

from . import book
from .ledger import Ledger
from .load import Load, wait_until
from .model import Judge
from .rig import Rig
from .runner import SLACK_S
from .sitting import LOGS
from .toxics import Bandwidth
from .watch import Watch

CABLE = Bandwidth(2.5e6)
WIDE, ITEM = "wide", 1 << 16
IMPORTED = "imported"
SOURCES = ("faults.small:small", "faults.small:small", "stageline_stage.zoo:resnet50")
"""One after the other, again and again: a large one alone fills ten minutes on two full processors."""
DISK_BYTES = 512 << 20
WIDTH, DEADLINE_S = 40, 60.0
BURNERS_PER_CPU = 1
SERVING_S, IMPORT_S = 300.0, 600.0


class Wide(torch.nn.Module):
    """Little to compute, much to carry: 256 KiB per item and hop."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = torch.nn.ParameterList([torch.full((ITEM,), 0.5 + i) for i in range(4)])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for scale in self.scales:
            x = x + torch.tanh(x * scale)
        return {"y": x}


def soak(folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """What happened, as JSON; `failures` is empty if all was well."""
    ledger, counts, commit = Ledger(DEADLINE_S, SLACK_S), Counter[str](), book.commit()
    with Rig(folder / "rig", "wired", seed=seed, disk_bytes=DISK_BYTES) as rig:
        _register_wide(rig)
        for proxy in rig.proxies.values():
            proxy.add(CABLE, "up")
            proxy.add(CABLE, "down")
        with rig.admin() as admin:
            broadcasts = admin.welcome.plan
        before, began = _jiffies(), time.monotonic()
        with (
            Watch(broadcasts) as watch,
            _burners(),
            _work(rig, counts),
            Load(
                rig.client_address, Judge(seed), ledger, width=WIDTH, deadline_s=DEADLINE_S, run=f"soak/{began}"
            ) as load,
        ):
            time.sleep(max(0.0, began + 60 * minutes - time.monotonic()))
            load.stop(DEADLINE_S + SLACK_S)
        result = _result(rig, ledger, watch, counts, _busy(before, _jiffies()), time.monotonic() - began)
        result["commit"] = commit
        if result["failures"]:
            shutil.rmtree(LOGS / "soak", ignore_errors=True)
            shutil.copytree(rig.folder / "logs", LOGS / "soak")
        return result


def _result(
    rig: Rig, ledger: Ledger, watch: Watch, counts: Mapping[str, int], busy: float, seconds: float
) -> dict[str, Any]:
    accused = accusations([(at, nodes) for at, _, nodes in watch.seen])
    gaps = [later[0] - earlier[0] for earlier, later in zip(watch.seen, watch.seen[1:], strict=False)]
    tally = ledger.tally()
    evictions = int(rig.coordinator.gauge("stageline_coordinator_evictions_total"))
    bad = {"lost": tally.lost, "wrong": tally.wrong, "refused": tally.refused, "failed": tally.failed}
    bad |= {"expired": tally.expired, "duplicated": tally.duplicated, "late": tally.late, "evicted": evictions}
    failures = [f"{count} {what}" for what, count in bad.items() if count] + accused
    failures += [f"{count} {what}" for what, count in counts.items() if "failed" in what]
    failures += [f"no {what}" for what in ("imports", "wide answers") if not counts[what]]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": "",
        "machine": book.machine(),
        "minutes": round(seconds / 60, 1),
        "cpu_busy": round(busy, 3),
        "models_imported_loaded_removed": counts["imports"],
        "wide_requests": counts["wide answers"],
        "wide_requests_failed": counts["wide errors"],
        "mib_through_cables": sum(p.counts["up"] + p.counts["down"] for p in rig.proxies.values()) >> 20,
        "requests": {name: getattr(tally, name) for name in ("sent", "answered", "lost", "wrong", "repeated")},
        "overdue_batches": int(rig.gateway.gauge("stageline_gateway_overdue_total")),
        "longest_between_broadcasts_s": round(max(gaps, default=0.0), 2),
        "suspected_or_evicted": accused,
        "failures": failures,
    }


def accusations(seen: list[tuple[float, dict[str, NodeView]]]) -> list[str]:
    """Each change for the worse of what broadcasts said of a worker: pure."""
    found, last = [], dict[str, NodeView]()
    for at, nodes in seen:
        for name in {*last, *nodes}:
            then, now = last.get(name), nodes.get(name)
            if then is None or (now is not None and (now.state, now.executors) == (then.state, then.executors)):
                continue
            said = "is left out" if now is None else f"is {now.state} with executors {list(now.executors)}"
            found.append(f"{at - seen[0][0]:.1f} s: {name} {said}")
        last |= nodes
    return found


# --- what goes on meanwhile -----------------------------------------------------------------------------------


def _register_wide(rig: Rig) -> None:
    store = BlobStore(rig.folder / "import-wide")
    signature = Signature.batched({"x": torch.zeros(2, ITEM)})
    manifest = import_module(Wide().eval(), signature, name=WIDE, store=store)
    sha = store.put_bytes(canonical_json(manifest.to_json()))
    with rig.admin() as admin:
        admin.upload(store, [*manifest.blobs(), sha])
        admin.put_model(sha)
    _await_serving(rig, WIDE)


def _await_serving(rig: Rig, name: str) -> None:
    def serves() -> bool:
        with suppress(StagelineError, OSError), rig.admin() as admin:
            model = admin.plan().model(name)
            return model is not None and model.status == "serving"
        return False

    problem = wait_until(f"{name} is served", serves, SERVING_S)
    if problem:
        raise RuntimeError(problem)


@contextmanager
def _burners() -> Iterator[None]:
    """Processes that want all processors, at no lower priority than ours."""
    command = [sys.executable, "-c", "while True: pass"]
    children = [subprocess.Popen(command) for _ in range(BURNERS_PER_CPU * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


@contextmanager
def _work(rig: Rig, counts: Counter[str]) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=one, args=(rig, counts, stop)) for one in (_import_models, _carry, _carry)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _import_models(rig: Rig, counts: Counter[str], stop: threading.Event) -> None:
    """From the shell, as a user would; each is served before it is removed."""
    add = [str(Path(sys.executable).with_name("stageline")), "models", "add", "--name", IMPORTED]
    for source in cycle(SOURCES):
        if stop.is_set():
            return
        try:
            if not _ran([*add, source, "--coordinator", rig.coordinator.address], stop):
                return
            _await_serving(rig, IMPORTED)
            with rig.admin() as admin:
                admin.remove_model(IMPORTED)
            counts["imports"] += 1
        except (subprocess.SubprocessError, StagelineError, RuntimeError) as error:
            counts[f"imports that failed ({error})"] += 1
            stop.wait(1.0)


def _ran(command: list[str], stop: threading.Event) -> bool:
    """Whether it came to its end before time was over. Raises `subprocess.SubprocessError` if it failed."""
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    deadline = time.monotonic() + IMPORT_S
    while child.poll() is None and not stop.wait(0.1):
        if time.monotonic() > deadline:
            child.kill()
            raise subprocess.TimeoutExpired(command[1:4], IMPORT_S)
    if child.poll() is None:
        child.terminate()
        child.wait()
        return False
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command[1:4])
    return True


def _carry(rig: Rig, counts: Counter[str], stop: threading.Event) -> None:
    x = np.random.default_rng(0).standard_normal((1, ITEM)).astype(np.float32)
    with Client(rig.client_address.removeprefix("tcp://"), retry=None) as client:
        while not stop.is_set():
            try:
                client.infer(WIDE, {"x": x}, deadline_s=DEADLINE_S)
                counts["wide answers"] += 1
            except StagelineError:
                counts["wide errors"] += 1


def _jiffies() -> list[int]:
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _busy(before: list[int], after: list[int]) -> float:
    """The part of all processors' time that was not idle."""
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))
