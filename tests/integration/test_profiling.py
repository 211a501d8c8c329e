"""A cluster on this machine measures its links and blocks by itself, says so, and plans with what it found."""

from __future__ import annotations

import time
from typing import Any

from shell import TIMEOUT_S, TINY, Shell


def profiles(shell: Shell) -> list[dict[str, Any]]:
    return [row["profile"] for row in shell.json("nodes", "list")]


def test_links_and_blocks_are_measured_with_errors_and_reach_the_planner(shell: Shell) -> None:
    shell.up()
    (shell.home / "tiny.py").write_text(TINY)
    shell.json("models", "add", "tiny:make", "--name", "tiny")
    deadline = time.monotonic() + TIMEOUT_S
    while any(len(one["links"]) < 2 or one["batches"] != [1, 2, 4, 8] for one in profiles(shell)):
        assert time.monotonic() < deadline, profiles(shell)
    gateway = shell.json("status")["processes"][1]["name"]
    for profile in profiles(shell):
        assert profile["blocks"] == profile["blocks_total"] > 1 and profile["links_total"] == 2
        assert profile["block_error"] > 0
        assert {link["peer"] for link in profile["links"]} >= {f"gateway:{gateway}"}
        for link in profile["links"]:
            assert link["bytes_per_s"] > 1e6 and 0 < link["latency_s"] < 1
    assert "2/2 links" in shell.run("nodes", "list").stdout

    problem = shell.json("plan", "problem")
    rates = problem["links"]["bandwidth_bytes_per_s"]
    assert rates[0][0] is None and rates[0][1] > 1e6 and rates[1][0] > 1e6
    assert len(problem["ingress"]["latency_s"]) == len(problem["egress"]["latency_s"]) == 2

    shell.json("bench", "tiny", "--concurrency", "2", "--duration", "3", "--warmup", "0")
    while all(one["drift"] == 1.0 for one in profiles(shell)):  # live times have come from the gateway
        assert time.monotonic() < deadline, profiles(shell)
