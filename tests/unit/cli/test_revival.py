"""What has ended of a running cluster is started again as it was, on its ports; a cluster keeps its ports."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from ports import free_port
from waiting import eventually

from stageline.embedded import revival
from stageline.embedded.ended import cure
from stageline.embedded.ports import PORTS_FILE, hold, keep_ports, kept_ports
from stageline.embedded.revival import not_applied, revive
from stageline.embedded.spawning import Cluster, Spawner, starting
from stageline.embedded.state import ClusterState, find, new_state, save
from stageline.errors import ClusterError, NotReadyError

SERVICE = """
import json, os, pathlib, signal, socket, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
ports = [socket.create_server(("127.0.0.1", int(flags[name]))) for name in ("--port", "--http-port")]
client, http = (f"127.0.0.1:{one.getsockname()[1]}" for one in ports)
ready = pathlib.Path(flags["--ready-file"])
part = ready.with_suffix(".part")
part.write_text(json.dumps({"client": client, "control": f"tcp://{client}", "http": f"http://{http}"}))
part.replace(ready)
signal.pause()
"""
"""Listens and announces as a gateway or coordinator does."""


REVIVED: list[Cluster] = []
"""What `revive` returned in this test."""


class Started(Spawner):
    """A cluster of pretended services, with ports as the launcher gives them."""

    def add(self, name: str) -> None:
        role = "coordinator" if name == "coordinator" else "gateway"
        ports = self._ports(name, ("port", "http_port"))
        flags = [*("--port", str(ports["port"])), *("--http-port", str(ports["http_port"]))]
        command = [sys.executable, "-c", SERVICE, "--ready-file", str(self._ready_file(name)), *flags]
        self._execute(name, role, command, {**os.environ, "STAGELINE_THREADS": "2"})  # type: ignore[arg-type]
        self._wait_ready(name)

    def up(self) -> ClusterState:
        coordinator = self.cluster.state.process("coordinator")
        assert coordinator is not None
        self._up(coordinator.address)
        return self.cluster.state


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """A coordinator and a gateway; nobody registers, and the coordinator knows of no successor."""
    monkeypatch.setattr(Spawner, "_wait_registered", lambda *arguments, **options: None)
    monkeypatch.setattr(revival, "refresh", lambda state: state)
    with starting(tmp_path):
        started = Started(new_state(tmp_path, "c1", "1"), 20.0, lambda: False)
        started.add("coordinator")
        started.add("gateway")
    started.up()
    yield started
    for one in (*REVIVED, started.cluster):
        one.stop()
    REVIVED.clear()


def kill(cluster: Started, name: str) -> None:
    process = cluster.cluster.state.process(name)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    eventually(f"{name} ended", lambda: not process.running)


def again(data_dir: Path, **asked: str) -> tuple[ClusterState, list[str], tuple[str, ...]]:
    """The cluster as it is then, what was started again, and which ports moved."""
    found = revive(data_dir, {f"--{flag}": value for flag, value in asked.items()}, 20.0, str, lambda: False)
    assert found is not None
    REVIVED.append(found[0])
    return found[0].state, found[1], found[0].moved


def test_what_ended_comes_back_on_its_ports_and_the_rest_runs_on(cluster: Started, tmp_path: Path) -> None:
    before = {process.name: process for process in cluster.cluster.state.processes}
    kill(cluster, "gateway")
    assert cure(cluster.cluster.state) == f"`stageline up --data-dir {tmp_path}` starts what has ended again"
    state, names, moved = again(tmp_path)
    after = {process.name: process for process in state.processes}
    assert (names, moved) == (["gateway"], ())
    assert after["coordinator"] == before["coordinator"] and after["gateway"].pid != before["gateway"].pid
    for name in ("address", "http"):
        assert getattr(after["gateway"], name) == getattr(before["gateway"], name)
    assert find(tmp_path) == state and state.gateway == before["gateway"].address
    environ = Path(f"/proc/{after['gateway'].pid}/environ").read_bytes().split(b"\0")
    assert b"STAGELINE_THREADS=2" in environ, "the environment is the old one"


def test_a_port_that_somebody_took_is_named_and_another_kept(cluster: Started, tmp_path: Path) -> None:
    kill(cluster, "gateway")
    port = kept_ports(tmp_path)["gateway"]["port"]
    with socket.create_server(("127.0.0.1", port)):
        state, _, moved = again(tmp_path)
    now = kept_ports(tmp_path)["gateway"]["port"]
    assert now != port and state.gateway == f"127.0.0.1:{now}"
    assert moved == (f"port {port} of gateway (port) is taken: it has {now} now",)


def test_a_coordinator_that_cannot_have_its_port_is_not_started_elsewhere(cluster: Started, tmp_path: Path) -> None:
    kill(cluster, "coordinator")
    port = kept_ports(tmp_path)["coordinator"]
    # The pretended one does not remember the port of its channel, so it gets another.
    assert set(port) == {"http_port"}
    with pytest.raises(NotReadyError, match="coordinator cannot come back where the others look for it"):
        again(tmp_path)
    left = find(tmp_path)
    assert left is not None and [process.name for process in left.dead] == ["coordinator"]


def test_nothing_ended_is_said_with_what_is_not_applied(cluster: Started, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"already runs on .*not applied: --coordinators 2 \(it runs with 1\)"):
        again(tmp_path, coordinators="2")
    assert revive(tmp_path / "other", {}, 20.0, str, lambda: False) is None
    assert not (tmp_path / "other").exists()


def test_settings_that_differ_are_named_without_the_values_of_variables(cluster: Started) -> None:
    state = cluster.cluster.state
    same = {"STAGELINE_THREADS": "2", "STAGELINE_DATA_DIR": "elsewhere", "UNRELATED": "x"}
    assert not_applied(state, {"--coordinators": "1"}, same) == []
    changed = {"STAGELINE_JOIN_TOKEN": "secret", "STAGELINE_THREADS": "2"}
    assert not_applied(state, {"--keys": "/k", "--config": "/c"}, changed) == [
        "--keys /k (it runs without)", "--config /c (it runs without)", "STAGELINE_JOIN_TOKEN",
    ]  # fmt: skip


def test_what_an_older_release_started_needs_all_of_it_again(cluster: Started, tmp_path: Path) -> None:
    kill(cluster, "gateway")
    state = cluster.cluster.state
    save(replace(state, processes=tuple(replace(process, command=()) for process in state.processes)))
    with pytest.raises(ClusterError, match="gateway has ended: `stageline down"):
        again(tmp_path)


def test_ports_outlive_the_cluster(cluster: Started, tmp_path: Path) -> None:
    before = kept_ports(tmp_path)
    cluster.cluster.stop()
    with starting(tmp_path):
        second = Started(new_state(tmp_path, "c2", "1"), 20.0, lambda: False)
        second.add("gateway")
    assert kept_ports(tmp_path) == before and second.cluster.moved == ()
    assert second.cluster.state.processes[0].address == f"127.0.0.1:{before['gateway']['port']}"
    second.cluster.stop()


@pytest.mark.parametrize("text", ["", "[]", '{"gateway": {"port": 0}}', '{"gateway": {"port": 70000}}'])
def test_a_file_of_ports_that_makes_no_sense_counts_for_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / PORTS_FILE).write_text(text)
    assert kept_ports(tmp_path) == {}
    keep_ports(tmp_path, "gateway", {"port": 4000})
    keep_ports(tmp_path, "stage-0", {"http_port": 4001})
    assert kept_ports(tmp_path) == {"gateway": {"port": 4000}, "stage-0": {"http_port": 4001}}


def test_a_held_port_is_for_the_one_who_names_it() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert hold(port) is None
    holder = hold(port)
    assert holder is not None
    with holder, socket.create_server(("127.0.0.1", port)):
        assert hold(port) is None
