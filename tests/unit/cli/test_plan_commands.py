"""`stageline plan` on problem files: no cluster, no torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stageline.cli import run
from stageline.cli.options import EXIT_FAILED, EXIT_NO_CLUSTER, EXIT_USAGE

PROBLEM: dict[str, Any] = {
    "version": 1,
    "nodes": [{"id": "fast", "memory_bytes": 100}, {"id": "slow", "memory_bytes": 100}],
    "links": {"bandwidth_bytes_per_s": [[None, 100], [100, None]], "latency_s": [[0, 0.5], [0.5, 0]]},
    "models": [
        {
            "name": "m",
            "blocks": [
                {"name": f"b{b}", "weight_bytes": 30, "workspace_bytes": 0, "seconds": [0.1, 0.2]} for b in range(3)
            ],
            "cuts_bytes": [10, 30, 10, 10],
        }
    ],
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("problem.json").write_text(json.dumps(PROBLEM))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["plan", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def test_plan_alone_shows_the_running_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == run(["plan", "show"]) == EXIT_NO_CLUSTER
    alone, shown = capsys.readouterr().err.splitlines()
    assert alone == shown
    assert "no running cluster" in alone


def test_a_plan_for_another_objective_is_checked_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    far = {"bandwidth_bytes_per_s": [None, None], "latency_s": [0.1, 0.1]}
    Path("problem.json").write_text(json.dumps({**PROBLEM, "ingress": far}))
    solved = answer(capsys, "solve", "problem.json", "--objective", "latency")
    Path("solution.json").write_text(json.dumps(solved))
    assert run(["plan", "check", "problem.json", "solution.json", "--json"]) == EXIT_FAILED
    assert not json.loads(capsys.readouterr().out)["ok"]
    assert answer(capsys, "check", "problem.json", "solution.json", "--objective", "latency")["ok"]


def test_solve_prints_stages_and_what_is_proven(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "solve", "problem.json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1:] == [
        "m\t0\t0-2\tfast\tnone\t200.000\t0.000",
        "m\t1\t2-3\tslow\tnone\t200.000\t100.000",
    ]
    assert "optimal: objective 200.000 ms, bound 200.000 ms, gap 0.00 %, latency 1000.000 ms" in captured.err


def test_the_objective_can_be_another(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "solve", "problem.json", "--objective", "latency")
    assert found["objective_s"] == pytest.approx(0.3)
    assert [stage["nodes"] for stage in found["stages"]["m"]] == [["fast"]]
    assert found["solve_s"] > 0


def test_a_baseline_has_a_plan_but_proves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "solve", "problem.json", "--algorithm", "even")
    assert (found["algorithm"], found["status"]) == ("even", "feasible")
    assert found["objective_s"] == pytest.approx(0.4)
    assert found["lower_bound_s"] is found["gap"] is None
    Path("solution.json").write_text(json.dumps(found))
    assert answer(capsys, "check", "problem.json", "solution.json")["ok"]


def test_the_dice_of_random_are_seeded(capsys: pytest.CaptureFixture[str]) -> None:
    plans = [
        answer(capsys, "solve", "problem.json", "--algorithm", "random", "--seed", str(n))["stages"] for n in (1, 1)
    ]
    assert plans[0] == plans[1]


def test_no_time_still_gives_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "solve", "problem.json", "--time-limit", "0")
    assert found["status"] in ("optimal", "feasible")
    assert found["stages"]["m"]


def test_a_problem_without_a_plan_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    tight = {**PROBLEM, "nodes": [{"id": "fast", "memory_bytes": 20}, {"id": "slow", "memory_bytes": 10}]}
    Path("tight.json").write_text(json.dumps(tight))
    assert run(["plan", "solve", "tight.json", "--json"]) == EXIT_FAILED
    captured = capsys.readouterr()
    solution = json.loads(captured.out)
    assert solution["status"] == "infeasible"
    assert captured.err.startswith("stageline: no plan: ")
    assert solution["reason"] in captured.err
    assert "b0" in captured.err
    Path("solution.json").write_text(captured.out)
    assert run(["plan", "check", "tight.json", "solution.json"]) == 0
    assert solution["proven"] is True
    assert "there is no plan: the check proves it" in capsys.readouterr().err
    Path("problem.json").write_text(json.dumps(PROBLEM))
    assert run(["plan", "check", "problem.json", "solution.json"]) == EXIT_FAILED
    assert "can be placed" in capsys.readouterr().err


def test_no_plan_found_is_not_said_to_be_proven(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [{"id": "fast", "memory_bytes": 250}, {"id": "slow", "memory_bytes": 250}]
    blocks = [{**block, "weight_bytes": 150} for block in PROBLEM["models"][0]["blocks"]]
    hard = {**PROBLEM, "nodes": nodes, "models": [{**PROBLEM["models"][0], "blocks": blocks}]}
    Path("hard.json").write_text(json.dumps(hard))
    assert run(["plan", "solve", "hard.json", "--time-limit", "0", "--json"]) == EXIT_FAILED
    hurried = capsys.readouterr()
    assert json.loads(hurried.out)["proven"] is False and hurried.err.endswith(" (not proven)\n")
    Path("solution.json").write_text(hurried.out)
    assert answer(capsys, "check", "hard.json", "solution.json")["infeasibility"] == "proven"
    assert run(["plan", "solve", "hard.json", "--json"]) == EXIT_FAILED
    assert json.loads(capsys.readouterr().out)["proven"] is True


def test_solve_says_that_the_running_plan_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    current = {"m": [{"blocks": [0, 3], "nodes": ["fast"], "codec": "none"}]}
    kept = {**PROBLEM, "current": current, "replan": {"threshold": 0.9}}
    Path("kept.json").write_text(json.dumps(kept))
    assert run(["plan", "solve", "kept.json"]) == 0
    assert "the running plan is kept: the best one found is" in capsys.readouterr().err


def test_compare_shows_every_algorithm_and_nobody_below_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "compare", "problem.json")
    rows = found["algorithms"]
    assert {"auto", "random", "seifer-greedy", "seifer-kpath", "pipeedge", "even", "memory", "ar-mdi"} <= rows.keys()
    assert found["lower_bound_s"] == rows["auto"]["objective_s"] == pytest.approx(0.2)
    assert all(row["of_bound"] >= 1 for row in rows.values() if row["of_bound"] is not None)
    assert run(["plan", "compare", "problem.json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 1 + len(rows)


def test_a_wrong_solution_is_told_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    solution = answer(capsys, "solve", "problem.json")
    Path("wrong.json").write_text(json.dumps({**solution, "objective_s": 0.1}))
    assert run(["plan", "check", "problem.json", "wrong.json"]) == EXIT_FAILED
    captured = capsys.readouterr()
    assert "objective_s: 0.1, but it comes to 0.2" in captured.out
    assert captured.err.startswith("stageline: ")
    assert len(captured.err.splitlines()) == 1


def test_stdin_is_a_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(PROBLEM)))
    solution = answer(capsys, "solve", "-")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(solution)))
    assert answer(capsys, "check", "problem.json", "-")["ok"]
    assert run(["plan", "check", "-", "-"]) == EXIT_USAGE
    assert "only one of PROBLEM and SOLUTION can be stdin" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["solve", "compare"])
@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("none.json", None, "cannot read none.json"),
        ("no.json", "{", "no.json is not JSON"),
        ("list.json", "[]", "list.json: document: must be an object"),
        ("nan.json", '{"version": NaN}', "nan.json: version: must be finite"),
        ("blocks.json", json.dumps({**PROBLEM, "models": [{"name": "m"}]}), "blocks.json: models[0].blocks: missing"),
        ("models.json", json.dumps({**PROBLEM, "models": []}), "models.json: models: must have at least one"),
        ("memory.json", json.dumps({**PROBLEM, "nodes": [{"id": "a", "memory_bytes": -1}]}),
         "memory.json: nodes[0].memory_bytes: must be between 0"),
    ],
)  # fmt: skip
def test_a_bad_problem_names_the_field(
    command: str, name: str, text: str | None, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path(name).write_text(text)
    assert run(["plan", command, name]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert wanted in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["solve", "problem.json", "--algorithm", "best"], "no algorithm 'best': known are auto, exact"),
        (["solve", "problem.json", "--time-limit", "-1"], "--time-limit"),
        (["solve", "problem.json", "--time-limit", "nan"], "--time-limit"),
        (["check", "problem.json", "problem.json"], "problem.json: status: missing"),
        (["check", "bad.json", "problem.json"], "bad.json: nodes: missing"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.json").write_text('{"version": 1}')
    assert run(["plan", *arguments]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert wanted in captured.err
    assert len(captured.err.splitlines()) == 1


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from stageline.cli import run; "
        "assert run(['plan', 'compare', 'problem.json']) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_without_a_plan_the_others_fail_like_solve(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    tight = {**PROBLEM, "nodes": [{"id": "fast", "memory_bytes": 20}, {"id": "slow", "memory_bytes": 10}]}
    Path("tight.json").write_text(json.dumps(tight))
    assert run(["plan", command, "tight.json"]) == EXIT_FAILED
    captured = capsys.readouterr()
    assert "no plan: model 'm': block b0" in captured.err
    assert "has no stages" not in captured.out
