"""The problem and solution files: round trip, and every malformed field named."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from stageline.errors import ConfigError
from stageline_coordinator.planner import (
    Block,
    Codec,
    Links,
    Medium,
    Model,
    ModelSolution,
    Move,
    Node,
    Port,
    Problem,
    Replan,
    Running,
    Shared,
    Solution,
    StageAssignment,
)

GOOD: dict[str, Any] = {
    "version": 1,
    "objective": "throughput",
    "nodes": [
        {"id": "n0", "memory_bytes": 100, "base_bytes": 7, "required": True, "hop_s": 1e-5, "byte_s": 1e-9},
        {"id": "n1", "memory_bytes": 200, "excluded": True},
    ],
    "links": {"bandwidth_bytes_per_s": [[0, 1e9], [1e9, 0]], "latency_s": [[0, 0.1], [0.1, 0]]},
    "ingress": {"bandwidth_bytes_per_s": [1e9, 0], "latency_s": [0, 0]},
    "egress": {"bandwidth_bytes_per_s": [None, 0], "latency_s": [0, 0]},
    "media": [{"name": "wifi", "nodes": ["n0", "n1"], "bandwidth_bytes_per_s": 1e6}],
    "replan": {"threshold": 0.1, "tolerance": 0.0},
    "current": {"m": [{"blocks": [0, 1], "nodes": ["n0", "n1"]}, {"blocks": [1, 2], "nodes": []}]},
    "models": [
        {
            "name": "m",
            "priority": 2.0,
            "rate_per_s": None,
            "buffer_bytes": 3,
            "batch": 4,
            "source": "n0",
            "required": ["n0"],
            "shared": [{"blocks": [0, 1], "bytes": 6}],
            "max_replicas": 2,
            "tolerance": 0.01,
            "codecs": [
                {"name": "fp16", "ratio": 0.5, "error": 1e-3, "byte_s": 2e-10},
                {"name": "int8", "ratio": 0.25, "error": 0.02},
            ],
            "blocks": [
                {"name": "b0", "weight_bytes": 10, "workspace_bytes": 1, "seconds": [0.1, None]},
                {"name": "b1", "weight_bytes": 20, "workspace_bytes": 5, "seconds": [0.2, 0.3]},
            ],
            "cuts_bytes": [4, 0, 2],
        }
    ],
}


def test_reads_what_the_schema_says() -> None:
    problem = Problem.from_json(GOOD)
    assert problem.nodes == (Node("n0", 100, 7, False, True, 1e-5, 1e-9), Node("n1", 200, excluded=True))
    blocks = (Block("b0", 10, 1, (0.1, math.inf)), Block("b1", 20, 5, (0.2, 0.3)))
    codecs = (Codec("fp16", 0.5, 1e-3, 2e-10), Codec("int8", 0.25, 0.02))
    shared = (Shared((0, 1), 6),)
    assert problem.models == (Model("m", blocks, (4, 0, 2), 2.0, None, 3, 4, "n0", 2, 0.01, codecs, ("n0",), shared),)
    assert problem.models[0].allowed_codecs() == codecs[:1]
    assert problem.links == Links(((0, 1e9), (1e9, 0)), ((0, 0.1), (0.1, 0)))
    assert problem.egress == Port((math.inf, 0), (0, 0))
    assert problem.media == (Medium("wifi", ("n0", "n1"), 1e6),)
    assert problem.replan == Replan(0.1, 0.0)
    assert problem.current == {"m": (Running((0, 1), ("n0", "n1")), Running((1, 2), ()))}


def test_problem_round_trip() -> None:
    problem = Problem.from_json(GOOD)
    text = json.dumps(problem.to_json(), allow_nan=False)
    assert Problem.from_json(json.loads(text)) == problem


def test_optional_keys_have_defaults_and_unknown_ones_are_ignored() -> None:
    document = {key: GOOD[key] for key in ("version", "nodes", "models")} | {"id": 3, "later": {}}
    problem = Problem.from_json(document)
    assert (problem.objective, problem.links, problem.ingress) == ("throughput", None, None)
    assert (problem.media, problem.replan, problem.current) == ((), Replan(0.05, 0.02), {})


def test_an_objective_for_each_number_of_models() -> None:
    problem = Problem.from_json(GOOD)
    assert replace(problem, objective="latency").objective == "latency"
    pair = (problem.models[0], replace(problem.models[0], name="other"))
    assert replace(problem, objective="weighted", models=pair).models == pair
    with pytest.raises(ConfigError, match="objective: latency is for one model, not 2; use weighted"):
        replace(problem, objective="latency", models=pair)


def test_stage_memory() -> None:
    model = Problem.from_json(GOOD).models[0]
    assert model.stage_bytes(0, 2) == 10 + 20 - 6 + 5 + 3
    assert model.stage_bytes(0, 1) == 10 + 1 + 3


NAN, INF = math.nan, math.inf
BAD: list[tuple[str, Any, str]] = [
    ("version", 2, "version: this planner reads 1"),
    ("objective", "fastest", "objective: must be one of"),
    ("nodes", {}, "nodes: must be a list"),
    ("nodes", "ab", "nodes: must be a list"),
    ("nodes[0]", 3, "nodes[0]: must be an object"),
    ("nodes[0].id", "", "nodes[0].id: must not be empty"),
    ("nodes[0].id", 5, "nodes[0].id: must be a string"),
    ("nodes[1].id", "n0", "nodes[1].id: 'n0' is used twice"),
    ("nodes[1].memory_bytes", -1, "nodes[1].memory_bytes: must be between 0"),
    ("nodes[1].memory_bytes", 1.5, "nodes[1].memory_bytes: must be a whole number"),
    ("nodes[1].memory_bytes", True, "nodes[1].memory_bytes: must be a number"),
    ("nodes[1].memory_bytes", 1 << 51, "nodes[1].memory_bytes: must be between 0"),
    ("nodes[1].memory_bytes", 10**400, "nodes[1].memory_bytes: is too large"),
    ("nodes[0].base_bytes", -1, "nodes[0].base_bytes: must be between 0"),
    ("nodes[0].required", 1, "nodes[0].required: must be true or false"),
    ("nodes[0].excluded", True, "nodes[0].required: the node is excluded"),
    ("nodes[0].hop_s", -1e-9, "nodes[0].hop_s: must be 0 or more"),
    ("nodes[0].byte_s", NAN, "nodes[0].byte_s: must be finite"),
    ("models[0].batch", 0, "models[0].batch: must be a whole number above 0"),
    ("models[0].max_replicas", 0, "models[0].max_replicas: must be a whole number above 0"),
    ("models[0].max_replicas", 1.5, "models[0].max_replicas: must be a whole number"),
    ("models[0].source", "n9", "models[0].source: no node 'n9'"),
    ("models[0].required", ["n9"], "models[0].required[0]: no node 'n9'"),
    ("models[0].required", "n0", "models[0].required: must be a list"),
    ("models[0].shared[0].bytes", 11, "models[0].shared[0].bytes: block 0 has fewer weight_bytes than it shares"),
    ("models[0].shared[0].bytes", -1, "models[0].shared[0].bytes: must be between"),
    ("models[0].shared[0].blocks[1]", 2, "models[0].shared[0].blocks[1]: must be one of the model's blocks, 0 to 1"),
    ("models[0].shared[0].blocks[1]", 0, "models[0].shared[0].blocks[1]: block 0 is named twice"),
    ("models[0].shared", 5, "models[0].shared: must be a list"),
    ("models[0].tolerance", -1, "models[0].tolerance: must be 0 or more"),
    ("models[0].codecs[1].name", "fp16", "models[0].codecs[1].name: 'fp16' is used twice"),
    ("models[0].codecs[1].name", "none", "models[0].codecs[1].name: 'none' is always there"),
    ("models[0].codecs[0].ratio", 0, "models[0].codecs[0].ratio: must be above 0"),
    ("models[0].codecs[0].error", -1, "models[0].codecs[0].error: must be 0 or more"),
    ("models[0].codecs[0].byte_s", INF, "models[0].codecs[0].byte_s: must be finite"),
    ("media[0].name", "", "media[0].name: must not be empty"),
    ("media[0].nodes[1]", "n9", "media[0].nodes[1]: no node 'n9'"),
    ("media[0].nodes[1]", "n0", "media[0].nodes[1]: 'n0' is named twice"),
    ("media[0].bandwidth_bytes_per_s", 0, "media[0].bandwidth_bytes_per_s: must be above 0"),
    ("replan.threshold", -0.1, "replan.threshold: must be 0 or more"),
    ("replan.threshold", 1.0, "replan.threshold: must be below 1"),
    ("replan.tolerance", "1", "replan.tolerance: must be a number"),
    ("current", {"x": []}, "current.x: no such model"),
    ("current.m[0].blocks", [0, 3], "current.m[0].blocks: must lie within the model's 2 blocks"),
    ("current.m[0].blocks", [1, 1], "current.m[0].blocks: must be [start, end)"),
    ("current.m[0].codec", "zip", "current.m[0].codec: must be one of none, fp16, int8, not 'zip'"),
    ("current.m[0].nodes[1]", "n9", "current.m[0].nodes[1]: no node 'n9'"),
    ("models[0].name", "", "models[0].name: must not be empty"),
    ("models[0].blocks", [], "models[0].blocks: must have at least one block"),
    ("models[0].blocks[1].name", "b0", "models[0].blocks[1].name: 'b0' is used twice"),
    ("models[0].blocks[1].weight_bytes", -1, "models[0].blocks[1].weight_bytes: must be between"),
    ("models[0].blocks[1].workspace_bytes", NAN, "models[0].blocks[1].workspace_bytes: must be finite"),
    ("models[0].blocks[1].seconds", [0.1], "models[0].blocks[1].seconds: must have 2 entries"),
    ("models[0].blocks[1].seconds[1]", NAN, "models[0].blocks[1].seconds[1]: must be finite"),
    ("models[0].blocks[1].seconds[1]", INF, "models[0].blocks[1].seconds[1]: must be finite"),
    ("models[0].blocks[1].seconds[1]", -0.1, "models[0].blocks[1].seconds[1]: must be 0 or more"),
    ("models[0].blocks[1].seconds[1]", "1", "models[0].blocks[1].seconds[1]: must be a number"),
    ("models[0].cuts_bytes", [1, 2], "models[0].cuts_bytes: must have 3 entries"),
    ("models[0].cuts_bytes[2]", -2, "models[0].cuts_bytes[2]: must be between"),
    ("models[0].priority", -1, "models[0].priority: must be 0 or more"),
    ("models[0].rate_per_s", 0, "models[0].rate_per_s: must be above 0"),
    ("models[0].buffer_bytes", -1, "models[0].buffer_bytes: must be between"),
    ("links.latency_s", [[0, 0]], "links.latency_s: must have 2 entries"),
    ("links.latency_s[1]", [0], "links.latency_s[1]: must have 2 entries"),
    ("links.bandwidth_bytes_per_s[1][0]", -1, "links.bandwidth_bytes_per_s[1][0]: must be 0 or more"),
    ("ingress.latency_s[1]", NAN, "ingress.latency_s[1]: must be finite"),
    ("egress.bandwidth_bytes_per_s", [1], "egress.bandwidth_bytes_per_s: must have 2 entries"),
    ("nodes", [], "nodes: must have at least one"),
    ("nodes[1].memory_bytes", 10**40, "nodes[1].memory_bytes: must be between 0 and 2**50 bytes"),
    ("models[0].priority", 1e308, "models[0].priority: must be 0 or between 1e-09 and 1e+09, not 1e+308"),
    ("models[0].rate_per_s", 1e-300, "models[0].rate_per_s: must be 0 or between"),
    ("models[0].blocks[1].seconds[1]", 5e-324, "models[0].blocks[1].seconds[1]: must be 0 or between 1e-12"),
    ("models[0].blocks[1].seconds[1]", 1e150, "models[0].blocks[1].seconds[1]: must be 0 or between"),
    ("models[0].codecs[0].ratio", 1e-300, "models[0].codecs[0].ratio: must be 0 or between"),
    ("nodes[0].byte_s", 1e-300, "nodes[0].byte_s: must be 0 or between"),
    ("ingress.bandwidth_bytes_per_s[0]", 1e-310, "ingress.bandwidth_bytes_per_s[0]: must be 0 or between 0.001"),
    ("links.bandwidth_bytes_per_s[1][0]", 1e-300, "links.bandwidth_bytes_per_s[1][0]: must be 0 or between"),
    ("links.latency_s[1][0]", 1e150, "links.latency_s[1][0]: must be 0 or between 0 and 1e+09"),
    ("media[0].bandwidth_bytes_per_s", 1e-300, "media[0].bandwidth_bytes_per_s: must be 0 or between"),
]

REQUIRED = [
    "version",
    "nodes",
    "models",
    "nodes[0].id",
    "nodes[0].memory_bytes",
    "models[0].name",
    "models[0].blocks",
    "models[0].cuts_bytes",
    "models[0].blocks[0].name",
    "models[0].blocks[0].weight_bytes",
    "models[0].blocks[0].workspace_bytes",
    "models[0].blocks[0].seconds",
    "links.bandwidth_bytes_per_s",
    "links.latency_s",
    "ingress.latency_s",
    "egress.bandwidth_bytes_per_s",
    "models[0].codecs[0].name",
    "models[0].codecs[0].ratio",
    "models[0].shared[0].blocks",
    "models[0].shared[0].bytes",
    "media[0].nodes",
    "media[0].bandwidth_bytes_per_s",
    "current.m[0].nodes",
]


def edited(path: str, value: Any = None, *, remove: bool = False) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    steps = [int(s) if s.isdigit() else s for s in path.replace("[", ".").replace("]", "").split(".")]
    place: Any = document
    for step in steps[:-1]:
        place = place[step]
    if remove:
        del place[steps[-1]]
    else:
        place[steps[-1]] = value
    return document


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_a_bad_value_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Problem.from_json(edited(path, value))
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_key_is_named(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Problem.from_json(edited(path, remove=True))
    assert caught.value.message == f"{path}: missing"


@pytest.mark.parametrize("document", [None, 3, "x", [], [GOOD]])
def test_not_an_object(document: Any) -> None:
    with pytest.raises(ConfigError, match="document: must be an object"):
        Problem.from_json(document)


def test_values_are_checked_without_json_too() -> None:
    with pytest.raises(ConfigError, match=r"models\[0\].blocks\[0\].seconds\[0\]: must not be NaN"):
        Problem((Node("a", 1),), (Model("m", (Block("b", 1, 0, (NAN,)),), (1, 1)),))
    with pytest.raises(ConfigError, match=r"nodes\[0\].memory_bytes: must be a whole number"):
        Problem((Node("a", 1.5),), ())  # type: ignore[arg-type]


def test_solution_round_trip() -> None:
    stages = (StageAssignment((0, 2), ("n1",), "none", 0.5, 0.0), StageAssignment((2, 3), ("n0",)))
    models = {
        "m": ModelSolution("feasible", 0.5, 0.4, 0.2, 0.6, "beam"),
        "x": ModelSolution("infeasible", reason="no nodes"),
    }
    solution = Solution("infeasible", 0.5, 0.4, 0.2, {"m": stages}, 0.6, 0.01, "beam", "no nodes", models)
    solution = replace(solution, moves=(Move("m", "n1", (0, 2), 30),), moved_bytes=30, load_factor=1.5, proven=True)
    text = json.dumps(solution.to_json(), allow_nan=False)
    assert Solution.from_json(json.loads(text)) == solution
    assert json.loads(text)["version"] == 1
    assert json.loads(text)["stages"]["m"][0] == {
        "blocks": [0, 2],
        "nodes": ["n1"],
        "codec": "none",
        "compute_s": 0.5,
        "transfer_in_s": 0.0,
    }


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "stages: missing"),
        ({"stages": {}, "status": "good"}, "status: must be one of"),
        ({"stages": {"m": [{"blocks": [2, 2]}]}, "status": "optimal"}, r"stages.m\[0\].blocks: must be \[start"),
        ({"stages": {"m": [{"blocks": [0, 2]}]}, "status": "optimal"}, r"stages.m\[0\].nodes: missing"),
        ({"stages": [], "status": "optimal"}, "stages: must be an object"),
        ({"stages": {}, "status": "optimal", "version": 2}, "version: this planner reads 1, not 2"),
    ],
)
def test_a_bad_solution_is_named(document: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Solution.from_json(document)
