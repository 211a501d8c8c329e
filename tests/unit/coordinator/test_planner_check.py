"""The independent checker: agrees with `evaluate` on random plans, and finds each kind of false statement."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest

from stageline.errors import ConfigError
from stageline_coordinator.planner import Problem, StageAssignment, solve
from stageline_coordinator.planner.check import check
from stageline_coordinator.planner.evaluate import evaluate

SEEDS = range(300)


def random_problem(rng: random.Random) -> dict[str, Any]:
    """A small problem with every optional key now and then."""
    ids = [f"n{i}" for i in range(rng.randint(1, 5))]
    found: dict[str, Any] = {
        "version": 1,
        "nodes": [
            {
                "id": name,
                "memory_bytes": rng.choice([40, 80, 400]),
                "base_bytes": rng.choice([0, 7]),
                "excluded": rng.random() < 0.05,
                "hop_s": rng.choice([0.0, 0.01]),
                "byte_s": rng.choice([0.0, 0.001]),
            }
            for name in ids
        ],
        "models": [random_model(rng, f"m{i}", ids) for i in range(rng.choice([1, 1, 2, 3]))],
    }
    found["objective"] = rng.choice(["throughput", "weighted", *(["latency"] if len(found["models"]) == 1 else [])])
    if rng.random() < 0.7:
        found["links"] = {
            "bandwidth_bytes_per_s": [[rng.choice([0, 10, 100, None]) for _ in ids] for _ in ids],
            "latency_s": [[rng.choice([0.0, 0.5]) for _ in ids] for _ in ids],
        }
    for port in ("ingress", "egress"):
        if rng.random() < 0.5:
            found[port] = {
                "bandwidth_bytes_per_s": [rng.choice([0, 20, 20, None]) for _ in ids],
                "latency_s": [rng.choice([0.0, 0.1]) for _ in ids],
            }
    if rng.random() < 0.4:
        members = rng.sample(ids, rng.randint(1, len(ids)))
        found["media"] = [{"name": "wifi", "nodes": members, "bandwidth_bytes_per_s": 15}]
    if rng.random() < 0.4:
        found["current"] = {
            model["name"]: [{"blocks": list(run), "nodes": nodes} for run, nodes, _ in random_stages(rng, model, ids)]
            for model in found["models"]
            if rng.random() < 0.8
        }
    return found


def random_model(rng: random.Random, name: str, ids: list[str]) -> dict[str, Any]:
    blocks = rng.randint(1, 5)
    return {
        "name": name,
        "priority": rng.choice([0.0, 1.0, 1.0, 3.0]),
        "rate_per_s": rng.choice([None, 2.0, 5.0]),
        "buffer_bytes": rng.choice([0, 3]),
        "max_replicas": rng.choice([1, 2, 3]),
        "source": rng.choice([None, None, None, ids[0]]),
        "tolerance": rng.choice([0.0, 0.01]),
        "codecs": [
            {"name": "fp16", "ratio": 0.5, "error": 0.001, "byte_s": 0.002},
            {"name": "int8", "ratio": 0.25, "error": 0.1},
        ],
        "shared": [
            {"blocks": rng.sample(range(blocks), rng.randint(1, blocks)), "bytes": rng.randint(1, 4)}
            for _ in range(rng.choice([0, 0, 1, 2]))
        ],
        "blocks": [
            {
                "name": f"b{b}",
                "weight_bytes": rng.randint(8, 20),
                "workspace_bytes": rng.choice([0, 5, 9]),
                "seconds": [None if rng.random() < 0.03 else rng.choice([0.0, 0.1, 0.3]) for _ in ids],
            }
            for b in range(blocks)
        ],
        "cuts_bytes": [rng.choice([0, 1, 2, 8]) for _ in range(blocks + 1)],
    }


def random_stages(
    rng: random.Random, model: dict[str, Any], ids: list[str]
) -> list[tuple[tuple[int, int], list[str], str]]:
    """Stages that cover the model, on distinct nodes."""
    blocks, left = len(model["blocks"]), rng.sample(ids, len(ids))
    cuts = sorted(rng.sample(range(1, blocks), rng.randint(0, min(blocks - 1, len(ids) - 1))))
    spans = list(zip([0, *cuts], [*cuts, blocks], strict=True))
    found = []
    for number, span in enumerate(spans):
        spare = len(left) - (len(spans) - number - 1)
        nodes = [left.pop() for _ in range(min(spare, rng.randint(1, model["max_replicas"])))]
        found.append((span, nodes, rng.choice(["none", "none", "fp16"]) if number else "none"))
    return found


def random_plan(rng: random.Random, problem: dict[str, Any]) -> dict[str, tuple[StageAssignment, ...]]:
    ids = [node["id"] for node in problem["nodes"]]
    return {
        model["name"]: tuple(
            StageAssignment(run, tuple(nodes), codec) for run, nodes, codec in random_stages(rng, model, ids)
        )
        for model in problem["models"]
    }


def stated(problem: dict[str, Any], plan: dict[str, tuple[StageAssignment, ...]]) -> dict[str, Any]:
    """The solution that `evaluate` makes of a plan, without what `current` adds."""
    found = evaluate(Problem.from_json(problem), plan)
    costs = found.models
    return {
        "status": "optimal",
        "objective_s": found.objective_s,
        "lower_bound_s": found.objective_s,
        "gap": 0.0,
        "load_factor": found.load_factor,
        "stages": {
            name: [
                {
                    "blocks": list(stage.blocks),
                    "nodes": list(stage.nodes),
                    "codec": stage.codec,
                    "compute_s": cost.compute_s,
                    "transfer_in_s": cost.transfer_in_s,
                }
                for stage, cost in zip(stages, costs[name].stages, strict=True)
            ]
            for name, stages in plan.items()
        },
        "models": {
            name: {"status": "feasible", "latency_s": cost.latency_s} for name, cost in costs.items()
        },
    }  # fmt: skip


def test_two_readings_of_the_semantics_agree() -> None:
    agreed = refused = 0
    for seed in SEEDS:
        rng = random.Random(seed)
        problem = random_problem(rng)
        plan = random_plan(rng, problem)
        faults = evaluate(Problem.from_json(problem), plan).faults
        if faults:
            solution = {"status": "feasible", "stages": {
                name: [{"blocks": list(s.blocks), "nodes": list(s.nodes), "codec": s.codec} for s in stages]
                for name, stages in plan.items()
            }}  # fmt: skip
            assert check(problem, solution).violations, (seed, faults)
            refused += 1
            continue
        solution = stated(problem, plan)
        report = check(problem, solution)
        assert [one for one in report.violations if not one.startswith("move")] == [], seed
        assert report.objective_s == pytest.approx(solution["objective_s"], rel=1e-12), seed
        assert report.lower_bound_s is not None and report.lower_bound_s <= report.objective_s * (1 + 1e-12), seed
        agreed += 1
    assert agreed > 60
    assert refused > 60


def test_what_the_planner_says_passes_the_check() -> None:
    for seed in range(25):
        problem = random_problem(random.Random(seed))
        solution = solve(Problem.from_json(problem))
        assert check(problem, solution.to_json()).violations == (), seed


PROBLEM: dict[str, Any] = {
    "version": 1,
    "nodes": [{"id": name, "memory_bytes": 100, "base_bytes": 10} for name in "abc"],
    "links": {
        "bandwidth_bytes_per_s": [[None, 10.0, 0.0], [10.0, None, 10.0], [10.0, 10.0, None]],
        "latency_s": [[0.0, 0.25, 0.0], [0.0] * 3, [0.0] * 3],
    },
    "egress": {"bandwidth_bytes_per_s": [4.0, 4.0, 0.0], "latency_s": [0.0, 0.5, 0.0]},
    "models": [
        {
            "name": "m",
            "codecs": [{"name": "int8", "ratio": 0.25, "error": 0.1}],
            "blocks": [
                {"name": "x", "weight_bytes": 50, "workspace_bytes": 10, "seconds": [1.0, 2.0, 2.0]},
                {"name": "y", "weight_bytes": 60, "workspace_bytes": 20, "seconds": [1.5, 1.5, None]},
            ],
            "cuts_bytes": [100, 20, 2],
        }
    ],
}
"""On a and b: 1 s, 2 s for 20 bytes at 10 bytes/s, 1.5 s, 0.5 s for 2 bytes at 4 bytes/s: the link limits it."""

SOLUTION: dict[str, Any] = {
    "status": "optimal",
    "objective_s": 2.0,
    "lower_bound_s": 2.0,
    "gap": 0.0,
    "latency_s": 1 + 2 + 0.25 + 1.5 + 0.5 + 0.5,
    "stages": {
        "m": [
            {"blocks": [0, 1], "nodes": ["a"], "compute_s": 1.0, "transfer_in_s": 0.0},
            {"blocks": [1, 2], "nodes": ["b"], "compute_s": 1.5, "transfer_in_s": 2.0},
        ]
    },
}


def test_figures_by_hand() -> None:
    report = check(PROBLEM, SOLUTION)
    assert report.violations == ()
    assert report.objective_s == report.lower_bound_s == 2.0
    assert report.latency_s == {"m": 5.75}
    assert report.gap == 0
    assert report.bottleneck == "link a -> b"


def _set(*path: str | int) -> Callable[[Any], Callable[[Any, Any], None]]:
    """Sets a value in the solution, or in the problem if the path starts with that word."""

    def to(value: Any) -> Callable[[Any, Any], None]:
        def change(problem: Any, solution: Any) -> None:
            at, steps = (problem, path[1:]) if path[0] == "problem" else (solution, path)
            for step in steps[:-1]:
                at = at[step]
            at[steps[-1]] = value

        return change

    return to


FIRST, SECOND = ("stages", "m", 0), ("stages", "m", 1)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (_set("objective_s")(1.9), "objective_s: 1.9, but it comes to 2"),
        (_set("latency_s")(5.0), "latency_s: 5, but it comes to 5.75"),
        (_set("lower_bound_s")(2.1), "lower_bound_s: 2.1 is above the objective, 2"),
        (_set("lower_bound_s")(1.0), "gap: 0.0, but objective and bound give 0.5"),
        (_set("lower_bound_s")(1.0), "status: 'optimal', but the gap is 0.5"),
        (_set("lower_bound_s")(None), "lower_bound_s: missing, though status and gap need one"),
        (_set("status")("feasible"), "status: 'feasible', but the bound is reached"),
        (_set("models")({"m": {"status": "optimal", "objective_s": 1.5}}), "models.m.objective_s: 1.5, but it comes"),
        (_set("load_factor")(3.0), "load_factor: 3, but nothing is placed that it could be of"),
        (_set("moved_bytes")(5), "moved_bytes: 5, but it comes to 0"),
        (_set(*FIRST, "compute_s")(0.9), "stages.m[0].compute_s: 0.9, but it comes to 1"),
        (_set(*SECOND, "transfer_in_s")(0.9), "stages.m[1].transfer_in_s: 0.9, but it comes to 2"),
        (_set(*FIRST, "blocks")([0, 2]), "stages.m[1].blocks: starts at 1, but 2 comes next"),
        (_set(*FIRST, "blocks")([0, 2]), "nodes[0].memory_bytes: a has 100, but would need 140"),
        (_set(*SECOND, "blocks")([1, 3]), "stages.m: ends at block 3 of 2"),
        (_set(*SECOND, "nodes")(["a"]), "stages.m[1].nodes: a serves the model already"),
        (_set(*SECOND, "nodes")(["d"]), "stages.m[1].nodes: there is no node d"),
        (_set(*SECOND, "nodes")(["b", "c"]), "stages.m[1].nodes: 2 of them, but 1 to 1 may be"),
        (_set(*SECOND, "nodes")([]), "stages.m[1].nodes: 0 of them"),
        (_set(*SECOND, "nodes")(["c"]), "stages.m[1].nodes: no link from a to c"),
        (_set(*SECOND, "nodes")(["c"]), "stages.m[1].nodes: no egress at c"),
        (_set(*SECOND, "nodes")(["c"]), "stages.m[1].nodes: c cannot run one of the blocks"),
        (_set(*SECOND, "codec")("int8"), "stages.m[1].codec: 'int8' is unknown, or its error is above"),
        (_set(*FIRST, "codec")("int8"), "stages.m[0].codec: what enters the first stage is never coded"),
        (_set("problem", "models", 0, "source")("b"), "the first stage belongs on b, the model's source"),
        (_set("problem", "nodes", 1, "excluded")(True), "stages.m[1].nodes: b is excluded"),
        (_set("problem", "nodes", 2, "required")(True), "nodes[2].required: c hosts nothing"),
        (_set("problem", "models", 0, "required")(["c"]), "models.m.required: c hosts nothing of it"),
        (_set("problem", "current")({"m": [{"blocks": [1, 2], "nodes": ["a"]}]}),
         "nodes[0].memory_bytes: a has 100, but would need 150 during the move"),
        (_set("problem", "current")({"m": [{"blocks": [1, 2], "nodes": ["b"]}]}),
         "moves: a has to fetch 50 bytes of m, not 0"),
        (_set("stages")({}), "stages.m: the model is not placed, but the status is 'optimal'"),
        (_set("stages", "other")([{"blocks": [0, 1], "nodes": ["c"]}]), "stages.other: not a model of the problem"),
        (_set("stages", "zz")([]), "stages.zz: not a model of the problem"),
        (_set("models")({"zz": {"status": "optimal"}}), "models.zz: not a model of the problem"),
        (_set("proven")(True), "proven: says something of 'infeasible' only"),
        (_set("status")("infeasible"), "reason: missing, though the status is 'infeasible'"),
    ],
)  # fmt: skip
def test_a_false_statement_is_named(change: Callable[[Any, Any], None], wanted: str) -> None:
    problem, solution = copy.deepcopy(PROBLEM), copy.deepcopy(SOLUTION)
    change(problem, solution)
    assert any(one.startswith(wanted) or wanted in one for one in check(problem, solution).violations)


def test_moves_from_the_running_plan_are_recomputed() -> None:
    problem = {**PROBLEM, "current": {"m": [{"blocks": [1, 2], "nodes": ["b"]}]}}
    moves = [{"model": "m", "node": "a", "blocks": [0, 1], "bytes": 50}]
    assert check(problem, {**SOLUTION, "moves": moves, "moved_bytes": 50}).ok
    assert not check(problem, {**SOLUTION, "moves": moves, "moved_bytes": 51}).ok


def test_a_node_that_loads_nothing_keeps_what_it_holds() -> None:
    problem = {**PROBLEM, "current": {"m": [{"blocks": [0, 2], "nodes": ["c"]}, {"blocks": [0, 1], "nodes": ["a"]}]}}
    assert check(problem, {**SOLUTION, "moves": [{"model": "m", "node": "b", "blocks": [1, 2], "bytes": 60}]}).ok


def test_a_plan_without_any_proof_claims_none() -> None:
    assert check(PROBLEM, {**SOLUTION, "status": "feasible", "lower_bound_s": None, "gap": None}).ok


def test_replicas_share_by_speed() -> None:
    problem = copy.deepcopy(PROBLEM)
    problem["models"][0] |= {"max_replicas": 2, "blocks": PROBLEM["models"][0]["blocks"][:1], "cuts_bytes": [0, 0]}
    stages = {"m": [{"blocks": [0, 1], "nodes": ["a", "b"], "compute_s": 4 / 3}]}
    seconds = 1 / (1 / 1.0 + 1 / 2.0)
    solution = {"status": "optimal", "objective_s": seconds, "lower_bound_s": seconds, "gap": 0.0, "stages": stages}
    report = check(problem, solution)
    assert report.ok, report.violations
    assert report.latency_s["m"] == pytest.approx(2 / 3 * 1 + 1 / 3 * (2 + 0.5))  # b's egress takes half a second more


def test_an_infeasible_answer_places_what_it_can() -> None:
    problem = copy.deepcopy(PROBLEM)
    problem["models"].append({**problem["models"][0], "name": "second"})
    answer = {**SOLUTION, "status": "infeasible", "reason": "second: needs 70 MB more", "latency_s": None}
    assert check(problem, answer).ok
    claimed = {**answer, "models": {"second": {"status": "feasible"}}}
    assert check(problem, claimed).violations == ("models.second.status: 'feasible', but the model is not placed",)


def test_no_plan_at_all_has_no_bound() -> None:
    problem = copy.deepcopy(PROBLEM)
    problem["links"]["bandwidth_bytes_per_s"] = [[0.0] * 3] * 3
    report = check(problem, {"status": "infeasible", "reason": "no links", "stages": {}})
    assert report.ok
    assert report.lower_bound_s is None
    assert report.objective_s is None


@pytest.mark.parametrize(
    ("problem", "solution", "wanted"),
    [
        ({}, SOLUTION, "nodes: missing"),
        (PROBLEM, {}, "stages: missing|status: missing"),
        (PROBLEM, {**SOLUTION, "stages": {"m": [{"blocks": [0], "nodes": ["a"]}]}}, r"stages\.m\[0\]\.blocks: must be"),
        (PROBLEM, {**SOLUTION, "objective_s": "2"}, "objective_s: must be a number"),
        (PROBLEM, {**SOLUTION, "status": "great"}, "status: must be one of optimal, feasible, infeasible, not 'great'"),
        (PROBLEM, {**SOLUTION, "models": {"m": {"status": "great"}}}, r"models\.m\.status: must be one of"),
        (PROBLEM, {**SOLUTION, "version": 2}, "version: this check reads 1, not 2"),
        (PROBLEM, {**SOLUTION, "solve_s": -1}, "solve_s: must be 0 or more, not -1"),
        (PROBLEM, {**SOLUTION, "proven": 1}, "proven: must be true or false"),
    ],
)
def test_documents_that_cannot_be_read_name_the_field(problem: Any, solution: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        check(problem, solution)
