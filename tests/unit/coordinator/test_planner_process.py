"""The planner's child is there before the first problem is, and answers it."""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import Any

import pytest

from stageline_coordinator.events import Solved, SolveFailed
from stageline_coordinator.planner_process import WARM_EVERY_S, PlannerProcess

PROBLEM: dict[str, Any] = {
    "version": 1,
    "nodes": [{"id": "n0", "memory_bytes": 100}],
    "models": [
        {
            "name": "m",
            "blocks": [{"name": "b0", "weight_bytes": 10, "workspace_bytes": 1, "seconds": [0.25]}],
            "cuts_bytes": [1, 1],
        }
    ],
}


def test_a_warm_child_answers_the_first_problem() -> None:
    planner = PlannerProcess()
    try:
        planner.warm(0.0)
        pid = planner.pid
        assert pid is not None
        os.kill(pid, 0)
        planner.warm(0.0)
        assert planner.solve(1, PROBLEM, 0.0) is None and planner.pid == pid
        assert last(planner).solution["objective_s"] == 0.25
    finally:
        planner.close()


def test_the_next_leaders_first_problem_is_not_answered_with_the_last_ones() -> None:
    planner = PlannerProcess()
    try:
        assert planner.solve(1, PROBLEM, 0.0) is None
        pid = planner.pid
        planner.forget()
        assert planner.expire(1e9) == [], "nobody waits"
        (model,) = PROBLEM["models"]
        slower = {**model, "blocks": [{**model["blocks"][0], "seconds": [0.5]}]}
        assert planner.solve(1, {**PROBLEM, "models": [slower]}, 0.0) is None
        assert last(planner).solution["objective_s"] == 0.5 and planner.pid == pid
    finally:
        planner.close()


def test_a_child_that_died_is_replaced_before_it_is_needed_but_not_all_the_time() -> None:
    planner = PlannerProcess()
    try:
        planner.warm(0.0)
        pid = planner.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert select.select([planner.readable], [], [], 60)[0]
        assert planner.read() == [] and planner.pid is None, "nothing was asked"
        planner.warm(WARM_EVERY_S / 2)
        assert planner.pid is None
        planner.warm(WARM_EVERY_S)
        assert planner.pid not in (None, pid)
    finally:
        planner.close()


def last(planner: PlannerProcess) -> Solved:
    """The final answer; all that comes before it is better and better."""
    found: list[Solved | SolveFailed] = []
    while not any(isinstance(one, Solved) and one.final for one in found):
        assert select.select([planner.readable], [], [], 60)[0]
        found += planner.read()
    times = [one.solution["objective_s"] for one in found if isinstance(one, Solved)]
    assert len(times) == len(found) and times == sorted(times, reverse=True)
    final = found[-1]
    assert isinstance(final, Solved)
    return final


def test_where_no_child_can_be_started_the_first_problem_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    planner = PlannerProcess()
    planner.warm(0.0)
    assert planner.pid is None
    failed = planner.solve(1, PROBLEM, 0.0)
    assert failed is not None and "cannot be started" in failed.reason
