"""The planner's child is there before the first problem is, and answers it."""

from __future__ import annotations

import os
import select
import sys

import pytest

from stageline_coordinator.events import Solved
from stageline_coordinator.planner_process import PlannerProcess

PROBLEM = {
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
        planner.warm()
        pid = planner.pid
        assert pid is not None
        os.kill(pid, 0)
        planner.warm()
        assert planner.solve(1, PROBLEM, 0.0) is None and planner.pid == pid
        found: list[object] = []
        while not any(isinstance(one, Solved) and one.final for one in found):
            assert select.select([planner.readable], [], [], 60)[0]
            found += planner.read()
        assert isinstance(found[-1], Solved) and found[-1].solution["objective_s"] == 0.25
    finally:
        planner.close()


def test_where_no_child_can_be_started_the_first_problem_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    planner = PlannerProcess()
    planner.warm()
    assert planner.pid is None
    failed = planner.solve(1, PROBLEM, 0.0)
    assert failed is not None and "cannot be started" in failed.reason
