"""The command line against a real cluster: models come and go, requests, figures, logs, completion, errors."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import MAIN, TIMEOUT_S, TINY, Shell

from stageline import Client

SHORT = ("--duration", "0.5", "--warmup", "0.1")


def error(shell: Shell, *arguments: str, code: int) -> str:
    """The one line that a command fails with."""
    lines = shell.run(*arguments, code=code).stderr.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def serving(shell: Shell) -> None:
    """Wait until the restarted cluster serves tiny."""
    deadline = time.monotonic() + TIMEOUT_S
    while [row["status"] for row in shell.json("models", "list")] != ["serving"]:
        assert time.monotonic() < deadline


def test_a_model_added_offline_is_served_measured_and_removed(shell: Shell) -> None:
    (shell.home / "tiny.py").write_text(TINY)
    named = ("--data-dir", str(shell.data_dir))
    shell.run("models", "add", "tiny:nothing", "--name", "tiny", *named, code=1)
    assert shell.json("models", "list", *named) == []
    added = shell.json("models", "add", "tiny:make", "--name", "tiny", *named)
    assert (added["status"], added["reason"]) == ("registered", "no cluster runs")
    assert [row["name"] for row in shell.json("models", "list", *named)] == ["tiny"]
    assert not (shell.data_dir / "cluster.json").exists(), "nothing was started for it"

    shell.up()
    serving(shell)
    np.save(shell.home / "x.npy", np.ones((1, 8), dtype=np.float32))
    ask = ("infer", "tiny", "--input", "input=x.npy")
    assert shell.json(*ask, "--deadline-ms", "60000", "--priority", "-1")["attempts"] == 1
    assert "deadline" in error(shell, *ask, "--deadline-ms", "0.001", code=1)
    figures_add_up(shell)
    progress_is_for_terminals(shell)
    assert offered(shell, "stageline bench t") == ["plain,tiny"]
    assert offered(shell, "stageline models show --data-dir elsewhere t") == []
    logs_are_followed(shell)

    # Removed from the running cluster: it is not served any more, and the next cluster does not know it.
    assert shell.json("models", "remove", "tiny") == {"removed": "tiny"}
    assert shell.json("models", "list") == []
    deadline = time.monotonic() + TIMEOUT_S
    with Client(shell.json("status")["gateway"]) as client:
        while client.describe():
            assert time.monotonic() < deadline, "the gateway still serves it"
    assert shell.json("plan", "show")["models"] == []
    for command in (ask, ("bench", "tiny"), ("models", "show", "tiny"), ("models", "remove", "tiny")):
        assert "tiny" in error(shell, *command, code=1)
    shell.run("down")
    assert shell.json("models", "list", *named) == []


def figures_add_up(shell: Shell) -> None:
    closed = shell.json("bench", "tiny", "--concurrency", "4", "--batch", "2", *SHORT)
    assert closed["loop"] == "closed"
    assert closed["requests"] == closed["answered"] > 0
    assert closed["throughput_rps"] > 0
    latency = closed["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert {node["node"] for node in closed["nodes"]} == {"stage-0", "stage-1"}
    opened = shell.run("bench", "tiny", "--rate", "100", "--arrivals", "constant", "--json", "open.json", *SHORT)
    figures: dict[str, Any] = json.loads((shell.home / "open.json").read_text())
    assert (figures["loop"], figures["requests"], figures["answered"]) == ("open", 50, 50)
    assert "requests\t50\n" in opened.stdout


def progress_is_for_terminals(shell: Shell) -> None:
    assert shell.run("bench", "tiny", *SHORT).stderr == ""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", MAIN, "bench", "tiny", *SHORT]
    environ = {**shell.environ, "TERM": "xterm", "COLUMNS": "120"}
    shown = b""
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=theirs, env=environ, cwd=shell.home, text=True
        ) as running:
            while running.poll() is None or select.select([ours], [], [], 0)[0]:
                if select.select([ours], [], [], 0.1)[0]:
                    shown += os.read(ours, 65536)
            assert running.stdout is not None
            table = running.stdout.read()
    finally:
        os.close(ours)
        os.close(theirs)
    assert running.returncode == 0
    assert b"measuring tiny" in shown
    assert b"answered" in shown
    assert table.startswith("figure\tvalue\n")
    assert "measuring" not in table


def offered(shell: Shell, line: str) -> list[str]:
    """What bash gets when the last word of the line is being completed."""
    words = {"_STAGELINE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", MAIN], env={**shell.environ, **words}, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def logs_are_followed(shell: Shell) -> None:
    names = {line.split(":")[0] for line in shell.run("logs").stdout.splitlines()}
    assert names == {"coordinator", "gateway", "stage-0", "stage-1"}
    log = shell.data_dir / "logs/gateway.log"
    command = [sys.executable, "-c", MAIN, "logs", "gateway", "--follow"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=shell.environ, text=True
    ) as following:
        assert following.stdout is not None
        for line in log.read_text().splitlines():
            assert following.stdout.readline() == line + "\n"
        with log.open("a") as file:
            file.write("written meanwhile\n")
        while (line := following.stdout.readline()) != "written meanwhile\n":
            assert line, "it ended before it was interrupted"
        following.send_signal(signal.SIGINT)
        _, complaint = following.communicate(timeout=TIMEOUT_S)
    assert following.returncode == 130
    assert complaint.strip() == "stageline: interrupted"


@pytest.mark.parametrize(
    ("module", "flag", "wanted"),
    [
        ("stageline_coordinator", "--port", "choose another port"),
        ("stageline_coordinator", "--http-port", "choose another --http-port"),
        ("stageline_gateway", "--port", "choose another --port"),
        ("stageline_gateway", "--http-port", "choose another --http-port"),
        ("stageline_stage", "--http-port", "choose another --http-port"),
    ],
)
def test_a_busy_port_is_one_line_that_names_the_flag(module: str, flag: str, wanted: str, tmp_path: Path) -> None:
    own = {
        "stageline_coordinator": ["--data-dir", str(tmp_path), "--plan-port", "0", "--blob-port", "0"],
        "stageline_gateway": ["--coordinator", "tcp://127.0.0.1:9"],
        "stageline_stage": ["--coordinator", "tcp://127.0.0.1:9", "--cache-dir", str(tmp_path)],
    }
    free = {"--http-port": "0"} if module == "stageline_stage" else {"--http-port": "0", "--port": "0"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = [word for pair in {**free, flag: str(port)}.items() for word in pair]
        done = subprocess.run(
            [sys.executable, "-m", module, *own[module], *ports],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("{"))
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line
    assert wanted in line
