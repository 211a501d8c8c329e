"""The planner's child process: lines in, better and better answers out, none for longer than it matters."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from small_problems import random_problem

from stageline.embedded.processes import read_stat
from stageline_coordinator.planner import Block, Model, Node, Problem, Solution, solve
from stageline_coordinator.planner.worker import Lines, answers, serve


def line(problem: Problem, name: object = 1, **more: object) -> str:
    return json.dumps({"id": name, **problem.to_json(), **more})


def small() -> Problem:
    blocks = tuple(Block(f"b{i}", 10, 0, (0.1, 0.1)) for i in range(4))
    return Problem((Node("n0", 100), Node("n1", 100)), (Model("m", blocks, (1,) * 5),))


def hard() -> Problem:
    """Two models on links: worth a second look after the first answer."""
    rng = random.Random(3)
    while True:
        problem = random_problem(rng, 5, 8, models=2)
        if solve(problem, out_of_time=lambda: True).status == "feasible":
            return problem


def run(lines: list[str]) -> list[dict[str, Any]]:
    child = subprocess.run(
        [sys.executable, "-W", "error", "-m", "stageline_coordinator.planner.worker"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert child.stderr == ""
    return [json.loads(one) for one in child.stdout.splitlines()]


def test_worker_child_round_trip() -> None:
    bad = json.dumps({"id": "x", "version": 1, "nodes": []})
    found = [one for one in run([line(small(), 7), "{", "", bad, "[]"]) if one["final"]]
    assert [one["id"] for one in found] == [7, None, "x", None]
    assert found[0]["solve_s"] > 0
    assert Solution.from_json(found[0]).stages == solve(small()).stages
    assert found[1]["error"]["code"] == "config"
    assert found[2]["error"] == {"code": "config", "message": "nodes: must have at least one"}
    assert "must be an object" in found[3]["error"]["message"]


def test_a_first_answer_is_given_before_the_last() -> None:
    found = list(answers(line(small(), "a"), lambda: False))
    assert [one["final"] for one in found] == [False] * (len(found) - 1) + [True]
    assert len(found) > 1 and {one["id"] for one in found} == {"a"}
    assert Solution.from_json(found[-1]).status == "optimal"


def test_later_answers_are_no_worse() -> None:
    found = [Solution.from_json(one) for one in answers(line(hard()), lambda: False)]
    gaps = [(one.objective_s, -(one.lower_bound_s or 0)) for one in found]
    assert gaps == sorted(gaps, reverse=True)


def test_an_outdated_or_late_problem_still_has_a_plan() -> None:
    asked = iter(range(1000))
    for found in (
        list(answers(line(hard()), lambda: next(asked) >= 0)),
        list(answers(line(hard(), time_limit_s=0), lambda: False)),
    ):
        assert [one["final"] for one in found] == [False, True]
        assert Solution.from_json(found[-1]).status == "feasible"
    assert next(asked) > 0


def test_a_bad_time_limit_is_named() -> None:
    assert list(answers(line(small(), time_limit_s="1"), lambda: False))[-1]["error"] == {
        "code": "config",
        "message": "time_limit_s: must be a number",
    }


def test_a_planner_bug_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem: Problem, **_: object) -> Iterator[Solution]:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("stageline_coordinator.planner.worker.improve", broken)
    found = list(answers(line(small()), lambda: False))
    message = "planner failed: ZeroDivisionError: boom"
    assert found == [{"id": 1, "final": True, "error": {"code": "error", "message": message}}]


def test_lines_are_answered_in_order_and_newer_ones_noticed() -> None:
    out, into = os.pipe()
    source = Lines(out)
    assert not source.waiting()
    os.write(into, (line(small(), 1) + "\n" + line(small(), 2) + "\n").encode())
    assert source.waiting()
    read = iter(source)
    assert json.loads(next(read))["id"] == 1
    assert source.waiting()
    assert json.loads(next(read))["id"] == 2
    assert not source.waiting()
    os.write(into, (line(small(), 3) + "\n").encode())
    os.close(into)
    sink = io.StringIO()
    serve(source, sink)
    assert {json.loads(one)["id"] for one in sink.getvalue().splitlines()} == {3}
    assert source.waiting()
    os.close(out)


PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "stageline_coordinator.planner.worker", str(os.getpid())],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdin.write(b"{}\\n"); child.stdin.flush(); child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_it_does_not_outlive_a_coordinator_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(worker, signal.SIGSTOP)  # it cannot see the end of its input, as in the midst of a large problem
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while (stat := read_stat(worker)) is not None and not stat.dead:
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.01)
