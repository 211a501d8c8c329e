"""The planner's problem of a running cluster, for people."""

from __future__ import annotations

import pytest
from fleet import MB, Fleet, manifest

from stageline.errors import ModelNotFoundError, NotReadyError
from stageline_coordinator.planner import Problem, solve
from stageline_coordinator.snapshot import problem_now


def served() -> Fleet:
    fleet = Fleet()
    fleet.join("a", memory=35 * MB)
    fleet.join("b", memory=35 * MB)
    fleet.add(manifest("net"))
    fleet.add(manifest("small", blocks=1, weights=MB))
    assert [model.status for model in fleet.plan.models] == ["serving", "serving"]
    return fleet


def test_it_is_what_the_planner_was_asked_and_the_plan_that_runs() -> None:
    fleet = served()
    document = problem_now(fleet.cluster, (), fleet.now)
    running = document["current"]
    assert document | {"current": {"net": running["net"]}} == fleet.solves[-1].document  # before "small" ran
    assert [stage["blocks"] for stage in running["net"]] == [[0, 2], [2, 4]]
    assert [stage["nodes"] for stage in running["net"]] == [[node] for node in fleet.hosts()]
    solution = solve(Problem.from_json(document))
    assert solution.moved_bytes == 0 and solution.reason.startswith("the running plan is kept")
    assert [list(stage.blocks) for stage in solution.stages["net"]] == [[0, 2], [2, 4]]


def test_named_models_only() -> None:
    fleet = served()
    document = problem_now(fleet.cluster, ("small",), fleet.now)
    assert [model["name"] for model in document["models"]] == ["small"]
    assert list(document["current"]) == ["small"]


def test_whoever_served_a_stage_and_is_gone_is_left_out() -> None:
    fleet = served()
    fleet.planner_works = False
    gone = fleet.hosts()[0]
    fleet.lose(gone)
    document = problem_now(fleet.cluster, ("net",), fleet.now)
    assert gone not in [node["id"] for node in document["nodes"]]
    assert [stage["nodes"] for stage in document["current"]["net"]] in ([[], ["a"]], [[], ["b"]])
    Problem.from_json(document)


def test_what_cannot_be_planned_says_why() -> None:
    fleet = Fleet()
    with pytest.raises(NotReadyError, match="no worker is usable"):
        problem_now(fleet.cluster, (), 0.0)
    fleet.join("a", mute=True)
    with pytest.raises(NotReadyError, match="models add"):
        problem_now(fleet.cluster, (), 0.0)
    fleet.add(manifest("net"))
    with pytest.raises(NotReadyError, match="net are still being measured"):
        problem_now(fleet.cluster, (), 0.0)
    with pytest.raises(ModelNotFoundError, match="'other' is registered; there are: net"):
        problem_now(fleet.cluster, ("other",), 0.0)
