"""What users want of plans, on a real cluster: heeded at once, taken back, and kept over a restart."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from shell import TIMEOUT_S, TINY, Shell

from stageline import Client
from stageline.admin import AdminClient
from stageline.cli import run
from stageline.cli.nodeduty import served
from stageline.errors import StagelineError


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


def test_wishes_are_heeded_kept_and_taken_back(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
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

    with admin(shell) as asked:
        asked.set_node(first, "cordoned", {"zone": "attic", "n": "1"})
    shell.run("down")
    assert shell.json("models", "list", "--data-dir", str(shell.data_dir))[0]["wishes"] == said["wishes"]
    shell.up()
    assert wishes(shell) == said["wishes"]
    assert shell.json("status")["objective"] == "latency"
    assert f"its plans heed: priority 2, forbid {first} box-9" in shell.run("models", "show", "tiny").stderr
    with admin(shell) as asked:
        (kept,) = (row for row in asked.nodes().nodes if row.node == first)
        assert (kept.duty, kept.labels) == ("cordoned", {"n": "1", "zone": "attic"})
        asked.set_node(first, "open")
    shell.json("models", "set", "tiny", "--forbid", other, "--unset", "priority")
    wait_until(shell, lambda: serves(shell) and hosts(shell) == [first])
    assert shell.json("models", "set", "tiny", "--unset", "forbid")["wishes"] == {}
    drained_with_nothing_lost(shell, first, other, capsys)


def drained_with_nothing_lost(shell: Shell, first: str, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    """While somebody asks all the time, the worker that serves all of it is emptied, and is open again."""
    where = ("--coordinator", shell.json("status")["coordinator"])

    def said(*arguments: str, code: int = 0) -> str:
        assert run(["nodes", *arguments, *where]) == code
        shown = capsys.readouterr()
        return shown.err if code else shown.out

    with asking(shell) as answers, admin(shell) as asked:
        answers.get(timeout=TIMEOUT_S)
        drained = json.loads(said("drain", first, "--json"))
        assert drained == {"node": first, "duty": "drained", "empty": True, "left": []}
        rows = {row.node: row for row in asked.nodes().nodes}
        assert not served(asked.plan(), first) and served(asked.plan(), other)
        assert rows[first].state == "draining" and not any(one.loaded for one in rows[first].executors)
        stuck = said("drain", other, "--timeout", "0.5", code=1)
        assert stuck.startswith(f"stageline: {other} is not empty after 0.5 s: it serves tiny 0-")
        assert said("uncordon", first) == f"{first} is open: plans may use it\n"
        wait_until(shell, lambda: bool(served(asked.plan(), first)) and not served(asked.plan(), other))
    shown = json.loads(said("show", other, "--json"))
    assert (shown["state"], shown["duty"], shown["serves"]) == ("draining", "drained", [])
    wait_until(shell, lambda: "drained" in said("list"))
    assert json.loads(said("label", first, "n-", "--json"))["labels"] == {"zone": "attic"}


def admin(shell: Shell) -> AdminClient:
    """A connection to the cluster's coordinator."""
    return AdminClient(shell.json("status")["coordinator"])


@contextmanager
def asking(shell: Shell) -> Iterator[queue.Queue[int]]:
    """Ask without pause and without retries of the client's; every request must be answered. Gives a mark for each."""
    answers: queue.Queue[int] = queue.Queue()
    stop, failed = threading.Event(), list[str]()
    address = shell.json("status")["gateway"]

    def ask() -> None:
        with Client(address, retry=None) as client:
            while not stop.is_set():
                try:
                    answers.put(client.infer("tiny", {"input": np.ones((1, 8), dtype=np.float32)}).attempts)
                except StagelineError as error:
                    failed.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join(TIMEOUT_S)
    assert not failed, failed[:3]


def serves(shell: Shell) -> bool:
    return [model["status"] for model in shell.json("plan", "show")["models"]] == ["serving"]


def loaded(shell: Shell, node: str) -> list[str]:
    (row,) = (row for row in shell.json("nodes", "list") if row["node"] == node)
    return [stage for executor in row["executors"] for stage in executor["stages"]]
