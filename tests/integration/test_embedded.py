"""`stageline up` to `down` as a user types it: separate commands, no flags in between, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from ports import free_port
from shell import MAIN, TIMEOUT_S, TINY, Shell, lives

from stageline.admin import AdminClient
from stageline.embedded.launch import ClusterSpec, start


def test_of_two_coordinators_one_takes_over(shell: Shell) -> None:
    started = shell.up("--coordinators", "2")
    pids = {p["name"]: p["pid"] for p in started["processes"]}
    assert set(pids) == {"coordinator", "coordinator-2", "gateway", "stage-0", "stage-1"}
    (shell.home / "tiny.py").write_text(TINY)
    assert shell.json("models", "add", "tiny:make", "--name", "tiny")["status"] == "serving"
    status = shell.json("status")
    states = {p["name"]: p["state"] for p in status["processes"]}
    assert (states["coordinator"], states["coordinator-2"]) == ("leads", "stands by")
    assert (status["standby"]["state"], status["epoch"][0]) == ("alive", 1)

    os.kill(pids["coordinator"], signal.SIGKILL)
    np.save(shell.home / "x.npy", np.zeros((1, 8), np.float32))
    shell.run("infer", "tiny", "--input", "input=x.npy", "--output", "y.npy")
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        status = shell.json("status")
        states = {p["name"]: p["state"] for p in status["processes"]}
        if states["coordinator-2"] == "leads" and states["stage-0"] == states["stage-1"] == "alive":
            break
        assert time.monotonic() < deadline, states
    assert states["coordinator"] == "dead" and status["standby"]["state"] == "gone"
    assert status["epoch"][0] > 1 and [model["name"] for model in status["models"]] == ["tiny"]
    assert shell.json("models", "add", "tiny:make", "--name", "second")["status"] == "serving"
    shell.json("down")
    assert not any(lives(pid) for pid in pids.values())


def test_from_up_to_down(shell: Shell) -> None:
    started = shell.up()
    assert [p["name"] for p in started["processes"]] == ["coordinator", "gateway", "stage-0", "stage-1"]

    # The factory is the user's own, in the directory where the command runs.
    (shell.home / "tiny.py").write_text(TINY)
    added = shell.json("models", "add", "tiny:make", "--name", "tiny")
    assert added["status"] == "serving"
    shown = shell.json("models", "show", "tiny")
    assert shown["inputs"] == [{"name": "input", "dtype": "float32", "shape": [-1, 8]}]
    assert sum(block["weight_bytes"] for block in shown["blocks"]) == 6 * (64 + 8) * 4
    assert [row["name"] for row in shell.json("models", "list")] == ["tiny"]

    # More items than one batch may hold: computed in parts.
    items = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    np.save(shell.home / "x.npy", items)
    answer = shell.json("infer", "tiny", "--input", "input=x.npy", "--output", "y.npy")
    assert answer["outputs"][0]["shape"] == [20, 8]
    assert answer["batch"] <= 8
    np.testing.assert_allclose(np.load(shell.home / "y.npy"), unsplit(items), rtol=1e-4, atol=1e-5)

    status = shell.json("status")
    assert status["epoch"][0] == 1
    assert {p["role"] for p in status["processes"]} == {"coordinator", "gateway", "stage", "executor"}
    pids = [p["pid"] for p in status["processes"]]
    assert all(lives(pid) for pid in pids)
    plan = shell.json("plan", "show")
    assert {node for stage in plan["models"][0]["stages"] for node in stage["nodes"]} <= {"stage-0", "stage-1"}
    assert {row["node"]: row["state"] for row in shell.json("nodes", "list")} == {
        "stage-0": "alive",
        "stage-1": "alive",
    }
    table = shell.run("plan", "show").stdout.splitlines()
    assert table[0].split("\t")[:4] == ["model", "stage", "blocks", "node"]
    plan_is_looked_at_and_solved_again(shell, plan["models"][0]["stages"])

    again = shell.run("up", "--data-dir", str(shell.data_dir), "--detach", code=1)
    assert "a cluster already runs on" in again.stderr

    stopped = shell.json("down")
    assert stopped["stopped"]["killed"] == []
    assert not any(lives(pid) for pid in pids)
    assert not (shell.data_dir / "cluster.json").exists()
    assert not (shell.data_dir / "run").exists()
    assert list((shell.home / "state/stageline/clusters").iterdir()) == []
    assert list((shell.home / "cache/stageline").iterdir()) == []
    assert shell.run("down").stdout == "no cluster was running\n"

    # The model outlives the cluster, and can be looked at and removed without one.
    named = ("--data-dir", str(shell.data_dir))
    assert [row["name"] for row in shell.json("models", "list", *named)] == ["tiny"]
    assert shell.json("models", "show", "tiny", *named)["inputs"] == shown["inputs"]
    shell.run("models", "remove", "tiny", *named)
    assert shell.json("models", "list", *named) == []


def unsplit(items: np.ndarray) -> np.ndarray:
    """What the whole of tiny gives."""
    import torch

    names: dict[str, Any] = {}
    exec(TINY, names)
    with torch.inference_mode():
        return np.asarray(names["make"]()[0](torch.from_numpy(items)))


def plan_is_looked_at_and_solved_again(shell: Shell, running: list[dict[str, Any]]) -> None:
    """The running plan is the one that the planner gives for the problem as the cluster states it."""
    problem = shell.run("plan", "problem", "--model", "tiny").stdout
    solved = json.loads(shell.run("plan", "solve", "-", "--json", given=problem).stdout)
    placed = [(stage["blocks"], stage["nodes"]) for stage in solved["stages"]["tiny"]]
    assert placed == [([stage["start"], stage["end"]], stage["nodes"]) for stage in running]
    (shell.home / "problem.json").write_text(problem)
    figures = shell.json("plan", "show", "problem.json", "--svg", "plan.svg")
    assert figures["objective_s"] == pytest.approx(solved["objective_s"])
    picture = ElementTree.parse(shell.home / "plan.svg")
    assert all(node in set(picture.getroot().itertext()) for stage in running for node in stage["nodes"])
    advice = shell.json("plan", "explain", "--time-limit", "5")
    assert advice["feasible"]
    assert advice["plan"]["chains"][0]["name"] == "tiny"


def test_a_killed_worker_shows_and_down_still_leaves_nothing(shell: Shell) -> None:
    shell.up()
    before = {p["name"]: p for p in shell.json("status")["processes"]}
    victim = before["stage-1"]["pid"]
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + TIMEOUT_S
    while (states := {p["name"]: p["state"] for p in shell.json("status")["processes"]})["stage-1"] != "dead":
        assert time.monotonic() < deadline, states
    assert states["stage-0"] == "alive"
    what_ended_is_started_again(shell, before)
    before |= {p["name"]: p for p in shell.json("status")["processes"]}
    os.kill(before["stage-1"]["pid"], signal.SIGKILL)
    os.kill(before["coordinator"]["pid"], signal.SIGKILL)
    report = shell.json("status", code=3)
    assert "coordinator has ended (see `stageline logs coordinator`): `stageline up" in report["problem"]
    assert {p["name"]: p["state"] for p in report["processes"]}["coordinator"] == "dead"

    with by_hand("coordinator", "--data-dir", str(shell.data_dir)) as coordinator:
        shown = {p["name"]: p for p in shell.json("status")["processes"]}["coordinator"]
        assert (shown["pid"], shown["state"]) == (coordinator.pid, "running")
        while {row["node"]: row["state"] for row in shell.json("nodes", "list")} != {
            "stage-0": "alive",
            "stage-1": "gone",
        }:
            assert time.monotonic() < deadline, "the live worker did not come back"
        assert "stop it first" in shell.run("nodes", "remove", "stage-0", code=1).stderr
        assert shell.json("nodes", "remove", "stage-1") == {"removed": "stage-1"}
        assert [row["node"] for row in shell.json("nodes", "list")] == ["stage-0"]
        assert shell.json("down")["stopped"]["killed"] == []
        assert coordinator.wait(TIMEOUT_S) == 0
    assert not any(lives(p["pid"]) for p in before.values())


def what_ended_is_started_again(shell: Shell, before: dict[str, Any]) -> None:
    """A worker has ended, and the gateway does now; the second `up` gives both their addresses back."""
    os.kill(before["gateway"]["pid"], signal.SIGKILL)
    again = shell.up("--coordinators", "2")
    assert set(again["restarted"]) == {"gateway", "stage-1"} and again["moved"] == []
    assert again["not_applied"] == ["--coordinators 2 (it runs with 1)"]
    after = {p["name"]: p for p in shell.json("status")["processes"]}
    for name in ("coordinator", "gateway", "stage-0", "stage-1"):
        assert (after[name]["http"], after[name]["address"]) == (before[name]["http"], before[name]["address"])
        assert (after[name]["pid"] == before[name]["pid"]) == (name in ("coordinator", "stage-0"))


@contextmanager
def by_hand(service: str, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A service as somebody would start it, on the ports of its last run where it remembers them."""
    ports = ("--port", "0", "--plan-port", "0", "--blob-port", "0", "--http-port", "0")
    with subprocess.Popen([sys.executable, "-m", f"stageline_{service}", *settings, *ports]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_in_the_foreground_an_interrupt_stops_all(shell: Shell) -> None:
    command = [sys.executable, "-c", MAIN, "up", "--nodes", "1", "--data-dir", str(shell.data_dir), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=shell.environ) as up:
        assert up.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = up.stdout.readline()
            assert line, "it ended before it was up"
            text += line
        pids = [p["pid"] for p in json.loads(text)["processes"]]
        assert all(lives(pid) for pid in pids)
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=TIMEOUT_S)
    assert up.returncode == 0
    assert not any(lives(pid) for pid in pids)
    assert not (shell.data_dir / "cluster.json").exists()


def test_a_start_that_takes_too_long_names_log_and_setting_and_leaves_nothing(shell: Shell) -> None:
    named = ("--data-dir", str(shell.data_dir))
    failed = shell.run("up", "--nodes", "1", *named, "--ready-timeout", "0.01", "--detach", code=1)
    assert "coordinator.log" in failed.stderr
    assert "--ready-timeout" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert shell.run("down", *named).stdout == "no cluster was running\n"
    assert not (shell.data_dir / "cluster.json").exists()


def test_a_process_may_have_settings_and_a_prefix_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "c.yaml").write_text(f"gateway: {{port: {port}, max_batch: 4}}\nstage: {{threads: 2, transport: auto}}")
    spec = ClusterSpec(
        tmp_path,
        nodes=2,
        config=tmp_path / "c.yaml",
        settings={"stage": {"transport": "tcp"}, "stage-1": {"host": "127.0.0.2"}},
        prefixes={"stage-1": ("env", "STAGELINE_TEST_PREFIX=here")},
    )
    with start(spec) as cluster, AdminClient(cluster.state.coordinator) as admin:
        commands = {
            node.node: Path(f"/proc/{node.executors[0].pid}/cmdline").read_text().split("\0")
            for node in admin.nodes().nodes
        }
        assert all("--transport=tcp" in command for command in commands.values()), "a flag beats the file"
        assert all("--threads=2" in command for command in commands.values()), "the file beats what is usual here"
        assert cluster.state.gateway == f"127.0.0.1:{port}"
        assert ["--host=127.0.0.2" in commands[name] for name in spec.node_names] == [False, True]
        found = {
            process.name: b"STAGELINE_TEST_PREFIX=here" in Path(f"/proc/{process.pid}/environ").read_bytes()
            for process in cluster.state.processes
        }
        assert {name for name, has in found.items() if has} == {"stage-1"}
