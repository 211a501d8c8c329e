"""What users want of plans, on a real cluster: heeded at once, taken back, and kept over a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from shell import TIMEOUT_S, TINY, Shell


def hosts(shell: Shell) -> list[str]:
    (model,) = shell.json("plan", "show")["models"]
    assert model["status"] == "serving", model
    return [node for stage in model["stages"] for node in stage["nodes"]]


def wait_until(shell: Shell, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, shell.json("plan", "show")


def wishes(shell: Shell) -> Any:
    return shell.json("models", "show", "tiny")["wishes"]


def test_wishes_are_heeded_kept_and_taken_back(shell: Shell) -> None:
    shell.up()
    (shell.home / "tiny.py").write_text(TINY)
    shell.json("models", "add", "tiny:make", "--name", "tiny")
    (first, *_) = hosts(shell)
    other = next(name for name in ("stage-0", "stage-1") if name != first)

    said = shell.json("models", "set", "tiny", "--forbid", first, "--forbid", "box-9", "--priority", "2")
    assert said == {"model": "tiny", "wishes": {"priority": 2.0, "forbidden": [first, "box-9"]}, "absent": ["box-9"]}
    wait_until(shell, lambda: hosts(shell) == [other])
    wait_until(shell, lambda: loaded(shell, first) == [])

    set_latency = shell.run("plan", "set", "--objective", "latency")
    assert set_latency.stdout == "plans are for latency from now on\n"
    assert shell.json("plan", "problem")["objective"] == "latency"
    assert shell.json("status")["objective"] == shell.json("plan", "show")["objective"] == "latency"
    refused = shell.run("models", "set", "nobody", "--priority", "1", code=1).stderr
    assert refused.splitlines() == [refused.strip()] and "no model 'nobody' is registered" in refused

    shell.run("down")
    assert shell.json("models", "list", "--data-dir", str(shell.data_dir))[0]["wishes"] == said["wishes"]
    shell.up()
    assert wishes(shell) == said["wishes"]
    assert shell.json("status")["objective"] == "latency"
    assert f"its plans heed: priority 2, forbid {first} box-9" in shell.run("models", "show", "tiny").stderr
    shell.json("models", "set", "tiny", "--forbid", other, "--unset", "priority")
    wait_until(shell, lambda: serves(shell) and hosts(shell) == [first])
    assert shell.json("models", "set", "tiny", "--unset", "forbid")["wishes"] == {}


def serves(shell: Shell) -> bool:
    return [model["status"] for model in shell.json("plan", "show")["models"]] == ["serving"]


def loaded(shell: Shell, node: str) -> list[str]:
    (row,) = (row for row in shell.json("nodes", "list") if row["node"] == node)
    return [stage for executor in row["executors"] for stage in executor["stages"]]
