"""A real cluster under load, and ways to hurt it that prove that they did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import waiting

from stageline import Client
from stageline.admin import AdminClient
from stageline.blobs import BlobStore
from stageline.embedded.launch import Cluster, ClusterSpec, start
from stageline.embedded.processes import group_members, read_stat
from stageline.errors import StagelineError
from stageline.keyfiles import NODES, add_node
from stageline.manifest import ModelManifest, canonical_json
from stageline.messages import NodeRow
from stageline.plan import ModelPlan
from stageline_stage.importer import Signature, import_module

DEADLINE_S = 60.0
SETTINGS: Mapping[str, Mapping[str, Any]] = {"coordinator": {"rejoin_ms": 1500}}
WIDTH = 768
BLOCKS = 6
TOLERANCE = 1e-4

Array = npt.NDArray[Any]


class Tower(torch.nn.Module):
    """Residual layers, so that every answer depends on every stage and on every number of its own input."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * WIDTH**-0.5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return {"y": x}


wait_until = partial(waiting.eventually, timeout_s=DEADLINE_S)


@dataclass
class Outcome:
    """How one request ended."""

    number: int
    result: Array | None
    error: StagelineError | None
    attempts: int = 1


@dataclass
class Load:
    """Keeps `width` distinct requests outstanding on one connection until stopped, and keeps every outcome."""

    client: Client
    width: int = 64
    deadline_s: float = 45.0
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Condition()
        self._sent = 0
        self._stopping = False
        for _ in range(self.width):
            self._next()

    @property
    def outstanding(self) -> int:
        """Requests that are sent and not answered."""
        with self._lock:
            return self._sent - len(self.outcomes)

    def answered(self) -> int:
        """Requests that have ended."""
        with self._lock:
            return len(self.outcomes)

    def stop(self) -> list[Outcome]:
        """Send no more, wait for the rest; every request sent has exactly one outcome."""
        with self._lock:
            self._stopping = True
            done = self._lock.wait_for(lambda: len(self.outcomes) >= self._sent, DEADLINE_S + self.deadline_s)
            assert done, f"{self._sent - len(self.outcomes)} of {self._sent} requests were never answered"
            assert sorted(o.number for o in self.outcomes) == list(range(self._sent))
            return list(self.outcomes)

    def _next(self) -> None:
        with self._lock:
            if self._stopping:
                return
            number, self._sent = self._sent, self._sent + 1
        future = self.client.submit("tower", {"x": question(number)}, deadline_s=self.deadline_s)
        future.add_done_callback(lambda f: self._ended(number, f))

    def _ended(self, number: int, future: Future[Any]) -> None:
        error = future.exception()
        if error is not None and not isinstance(error, StagelineError):
            raise error
        result = None if error is not None else future.result()
        if result is None:
            outcome = Outcome(number, None, error)
        else:
            outcome = Outcome(number, result.outputs["y"], None, result.attempts)
        with self._lock:
            self.outcomes.append(outcome)
            self._lock.notify_all()
        self._next()


def question(number: int) -> Array:
    """The input of request `number`: no two are alike."""
    return np.random.default_rng(number).standard_normal((1, WIDTH)).astype(np.float32)


class Bench:
    """The cluster with the tower on it, and what a test needs of it."""

    def __init__(self, cluster: Cluster, manifest: str) -> None:
        self.cluster = cluster
        self.manifest = manifest
        self.admin = AdminClient(cluster.state.coordinator, keys=cluster.state.admin_keys)
        self.client = Client(cluster.state.gateway)
        self.tower = Tower().eval()
        self._extra: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        self.client.close()
        self.admin.close()
        for process in self._extra:
            process.terminate()
        for process in self._extra:
            process.wait(DEADLINE_S)

    def plan(self) -> ModelPlan:
        """The tower's plan."""
        model = self.admin.plan().model("tower")
        assert model is not None
        return model

    def nodes(self) -> dict[str, NodeRow]:
        """Nodes by name."""
        return {row.node: row for row in self.admin.nodes().nodes}

    def stage_nodes(self) -> list[str]:
        """The nodes of the tower's stages, in order."""
        return [stage.replicas[0].node for stage in self.plan().stages]

    def victim(self) -> NodeRow:
        """The node of a middle stage."""
        names = self.stage_nodes()
        assert len(names) >= 2, "the tower is not split"
        return self.nodes()[names[len(names) // 2]]

    def serving_without(self, node: str) -> bool:
        """Whether a plan that does not use `node` serves the tower."""
        plan = self.plan()
        return plan.status == "serving" and node not in self.stage_nodes()

    def load(self, width: int = 64) -> Load:
        """A load that flows: it returns once answers come and the pipeline is full."""
        load = Load(self.client, width)
        wait_until("the load flows", lambda: load.answered() >= 50 and load.outstanding >= 20)
        return load

    def check(self, outcomes: list[Outcome]) -> int:
        """Every request was answered, each with its own right answer. Returns how many were dispatched again."""
        failed = [o for o in outcomes if o.error is not None]
        assert not failed, f"{len(failed)} of {len(outcomes)} failed: {failed[0].error!r}"
        inputs = np.concatenate([question(o.number) for o in outcomes])
        with torch.no_grad():
            expected = self.tower(torch.from_numpy(inputs))["y"].numpy()
        got = np.concatenate([o.result for o in outcomes if o.result is not None])
        np.testing.assert_allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE)
        return sum(o.attempts > 1 for o in outcomes)

    def join(self, name: str) -> subprocess.Popen[bytes]:
        """Start one more worker."""
        folder = Path(self.cluster.state.data_dir)
        command = [sys.executable, "-m", "stageline_stage", "--name", name, "--http-port", "0"]
        command += ["--coordinator", self.cluster.state.coordinator, "--cache-dir", str(folder / f"cache-{name}")]
        if self.cluster.state.keys:
            keys = Path(self.cluster.state.keys)
            add_node(keys, name)
            command += ["--keys-dir", str(keys / NODES / name)]
        with (folder / "logs" / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._extra.append(process)
        return process


def signal_worker(row: NodeRow, number: signal.Signals) -> None:
    """Signal a whole worker, agent and executors, and prove that it took effect."""
    stat = read_stat(row.pid)
    assert stat is not None
    os.killpg(stat.group, number)
    for pid in (row.pid, *(e.pid for e in row.executors)):
        prove(pid, number)


def signal_one(pid: int, number: signal.Signals) -> None:
    """Signal one process and prove that it took effect."""
    os.kill(pid, number)
    prove(pid, number)


def prove(pid: int, number: signal.Signals) -> None:
    """Wait until the process is dead (SIGKILL) or stopped (SIGSTOP)."""
    if number == signal.SIGKILL:
        wait_until(f"{pid} is dead", lambda: (stat := read_stat(pid)) is None or stat.dead)
    elif number == signal.SIGSTOP:
        wait_until(f"{pid} is stopped", lambda: (stat := read_stat(pid)) is not None and stat.state == "T")


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> tuple[BlobStore, ModelManifest]:
    """The tower, imported once."""
    store = BlobStore(tmp_path_factory.mktemp("tower"))
    manifest = import_module(Tower().eval(), Signature.batched({"x": torch.zeros(2, WIDTH)}), name="tower", store=store)
    return store, manifest


@pytest.fixture
def bench(tower: tuple[BlobStore, ModelManifest], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Three workers (or the parameter) that serve the tower; afterwards nothing of them runs."""
    spec = ClusterSpec(tmp_path / "data", nodes=getattr(request, "param", 3), settings=SETTINGS)
    with serving(tower, spec) as bench:
        yield bench


@pytest.fixture
def keyed(tower: tuple[BlobStore, ModelManifest], tmp_path: Path) -> Iterator[Bench]:
    """The same with keys, all over TCP."""
    with serving(tower, with_keys(tmp_path)) as bench:
        yield bench


@pytest.fixture(scope="module")
def unhurt(tower: tuple[BlobStore, ModelManifest], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The same once for all tests that only look, or are refused: they leave it as it was."""
    with serving(tower, with_keys(tmp_path_factory.mktemp("unhurt"))) as bench:
        yield bench


def with_keys(folder: Path) -> ClusterSpec:
    """Three workers with keys, data and keys in that folder."""
    settings = {**SETTINGS, "stage": {"transport": "tcp"}, "gateway": {"transport": "tcp"}}
    return ClusterSpec(folder / "data", nodes=3, settings=settings, keys=folder / "keys")


@contextmanager
def serving(tower: tuple[BlobStore, ModelManifest], spec: ClusterSpec) -> Iterator[Bench]:
    """A cluster that serves the tower; afterwards nothing of it runs."""
    store, manifest = tower
    with start(spec) as cluster:
        blob = store.put_bytes(canonical_json(manifest.to_json()))
        with AdminClient(cluster.state.coordinator, keys=cluster.state.admin_keys) as admin:
            admin.upload(store, [*manifest.blobs(), blob])
            admin.put_model(blob)
        bench = Bench(cluster, blob)
        try:
            wait_until("the tower is served", lambda: bench.plan().status == "serving")
            yield bench
        finally:
            bench.close()
    for process in cluster.state.processes:
        assert not group_members(process.pid, process.started), f"{process.name} left processes behind"
