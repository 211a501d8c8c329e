"""Several models, and reasons for infeasibility."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from small_problems import best_of_all, random_problem, with_shared

from stageline_coordinator.planner import Block, Links, Model, Node, Port, Problem, solve
from stageline_coordinator.planner.algorithms import run
from stageline_coordinator.planner.check import check
from stageline_coordinator.planner.check_place import too_little
from stageline_coordinator.planner.check_reading import read_case
from stageline_coordinator.planner.reason import explain, megabytes
from stageline_coordinator.planner.solve import AT_ONCE
from stageline_coordinator.planner.totals import shortfall

MB = 10**6


def model(name: str, weights_mb: list[int], seconds: list[list[float]], **more: float) -> Model:
    blocks = tuple(
        Block(f"{name}.{i}", w * MB, 0, tuple(row)) for i, (w, row) in enumerate(zip(weights_mb, seconds, strict=True))
    )
    return Model(name, blocks, (1,) * (len(blocks) + 1), **more)  # type: ignore[arg-type]


def nodes(*memory_mb: int, base_mb: int = 0) -> tuple[Node, ...]:
    return tuple(Node(f"n{i}", m * MB, base_mb * MB) for i, m in enumerate(memory_mb))


def even(name: str, blocks: int, count: int, weight_mb: int = 10, **more: float) -> Model:
    return model(name, [weight_mb] * blocks, [[0.1] * count] * blocks, **more)


def test_one_model() -> None:
    solution = solve(Problem(nodes(100, 100), (even("m", 4, 2),)))
    assert solution.status == "optimal"
    assert solution.objective_s == solution.lower_bound_s == pytest.approx(0.2)
    assert solution.gap == 0
    assert solution.latency_s == pytest.approx(0.4)
    assert [(s.blocks, s.nodes) for s in solution.stages["m"]] == [((0, 2), ("n0",)), ((2, 4), ("n1",))]
    assert solution.solve_s is None
    assert solution.models["m"].status == "optimal"


def test_a_second_model_goes_where_there_is_time() -> None:
    big, small = even("big", 3, 2), even("small", 1, 2)
    solution = solve(Problem(nodes(100, 100), (small, big)))
    assert [s.nodes for s in solution.stages["big"]] == [("n0",), ("n1",)]
    lighter = min(solution.stages["big"], key=lambda s: s.compute_s).nodes
    assert solution.stages["small"][0].nodes == lighter
    assert solution.objective_s == pytest.approx(0.2)
    assert solution.status == "optimal"
    assert solution.models["small"].status == "feasible"
    assert solution.models["small"].gap == pytest.approx(0.5)
    assert solution.algorithm.startswith("joint(")


def test_priority_decides_who_chooses_first() -> None:
    fast_and_slow = [[0.1, 0.9]]
    pair = (model("a", [60], fast_and_slow), model("b", [60], fast_and_slow, priority=2.0))
    solution = solve(Problem(nodes(100, 100), pair))
    assert solution.stages["b"][0].nodes == ("n0",)
    assert solution.stages["a"][0].nodes == ("n1",)


def test_rates_weigh_the_load_of_others() -> None:
    seconds = [[0.1, 20.0]]
    rare = model("rare", [10], seconds, rate_per_s=0.1, priority=2.0)
    often = model("often", [10], seconds, rate_per_s=10.0)
    solution = solve(Problem(nodes(100, 100), (rare, often)))
    assert solution.stages["rare"][0].nodes == solution.stages["often"][0].nodes == ("n0",)
    assert solution.objective_s == solution.models["often"].objective_s == pytest.approx(0.101)
    assert solution.load_factor == pytest.approx(1 / 1.01)
    assert solution.models["rare"].objective_s == pytest.approx(10.1)


def test_one_model_that_does_not_fit_leaves_the_others_placed() -> None:
    problem = Problem(nodes(50, 50), (even("large", 4, 2, 40), even("m", 2, 2)))
    solution = solve(problem)
    assert solution.status == "infeasible"
    assert set(solution.stages) == {"m"}
    assert solution.models["m"].status == "optimal"
    assert solution.models["large"].status == "infeasible"
    assert solution.models["large"].objective_s is None
    assert "large" in solution.reason


def test_the_base_is_paid_once_by_a_node() -> None:
    pair = (even("a", 1, 1, 20), even("b", 1, 1, 20))
    assert solve(Problem(nodes(70, base_mb=30), pair)).status == "optimal"
    short = solve(Problem(nodes(69, base_mb=30), pair))
    assert short.models["a"].status == "optimal"
    assert short.models["b"].reason == (
        "model 'b': block b.0 (20 MB) fits on no node: it needs 1 MB more on n0 (beside a)"
    )


@pytest.mark.parametrize(
    ("memory_mb", "weights_mb", "seconds", "reason"),
    [
        ((), [1], [[]], "model 'm': no nodes"),
        ((90, 80), [90, 100], [[1, 1]] * 2, "block m.1 (100 MB) fits on no node: it needs 10 MB more on n0"),
        (
            (80, 80),
            [90, 100],
            [[1, 1]] * 2,
            "(90 MB) fits on no node: it needs 10 MB more on any one of n0, n1",
        ),
        ((9, 9), [1], [[math.inf] * 2], "block m.0 (1 MB) can run on no node"),
        ((90, 90), [60] * 3, [[1, 1]] * 3, "model 'm' needs 30 MB more on any one of n0, n1"),
        ((90, 80), [60] * 3, [[1, 1]] * 3, "model 'm' needs 30 MB more on n0"),
        ((60, 60), [60] * 3, [[1, 1], [1, math.inf], [1, 1]], "model 'm' needs 60 MB more on n0"),
        ((9, 9), [1] * 3, [[1, math.inf], [math.inf, 1], [1, math.inf]], "more nodes are needed"),
    ],
)
def test_the_reason_says_what_is_missing(
    memory_mb: tuple[int, ...], weights_mb: list[int], seconds: list[list[float]], reason: str
) -> None:
    solution = solve(Problem(nodes(*memory_mb), (model("m", weights_mb, seconds),)))
    assert solution.status == "infeasible"
    assert reason in solution.reason
    assert solution.stages == {}


def test_what_the_reason_asks_for_suffices_and_less_does_not() -> None:
    rng = random.Random(2)
    asked = 0
    for _ in range(60):
        count, size = rng.randint(1, 4), rng.randint(2, 6)
        memory = [rng.randint(8, 20) for _ in range(count)]
        one = even("m", size, count, rng.randint(4, 8))
        reason = solve(Problem(nodes(*memory), (one,))).reason
        if " more on " not in reason:
            continue
        asked += 1
        extra = int(reason.split("needs ")[1].split(" MB")[0])
        named = reason.split("more on ")[1].removeprefix("any one of ").split(", ")
        for i in range(count):
            more = [m + extra * (j == i) for j, m in enumerate(memory)]
            less = [m + (extra - 1) * (j == i) for j, m in enumerate(memory)]
            assert (solve(Problem(nodes(*more), (one,))).status == "optimal") == (f"n{i}" in named)
            assert solve(Problem(nodes(*less), (one,))).status == "infeasible"
    assert asked > 10


def linked(bandwidth: list[list[float]], ingress: list[float], **change: object) -> Problem:
    """Two blocks, each of which only one node has room for."""
    one = model("m", [60, 60], [[1.0, 1.0], [1.0, 1.0]])
    zeros = ((0.0, 0.0),) * 2
    links, port = Links(tuple(map(tuple, bandwidth)), zeros), Port(tuple(ingress), zeros[0])
    return replace(Problem(nodes(100, 100), (one,), links, port), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (linked([[0, 0], [0, 0]], [1, 0]), "model 'm' needs a link from n0 to n1 (for 1 B)"),
        (linked([[0, 1], [1, 0]], [0, 0]), "model 'm' needs a link from the gateway to n0"),
        (
            linked([[0, 1], [1, 0]], [1, 1], nodes=(Node("n0", 100 * MB, excluded=True), Node("n1", 100 * MB))),
            "model 'm' needs 20 MB more on n1",
        ),
        (
            linked([[0, 1], [1, 0]], [1, 1], nodes=(Node("n0", 150 * MB), Node("n1", 9 * MB, required=True))),
            "model 'm': no plan uses all of the required n1",
        ),
    ],
)
def test_the_reason_names_links_and_what_was_asked_for(problem: Problem, reason: str) -> None:
    solution = solve(problem)
    assert (solution.status, solution.reason) == ("infeasible", reason)


def test_a_source_that_is_excluded_is_named() -> None:
    one = replace(even("m", 1, 2), source="n0")
    boxes = (Node("n0", 100 * MB, excluded=True), Node("n1", 100 * MB))
    assert solve(Problem(boxes, (one,))).reason == "model 'm': its source n0 is excluded"


def test_the_reason_for_too_many_different_nodes() -> None:
    memory = [10 + i for i in range(20)]
    one = even("m", 40, 20, 9)
    reason = explain(Problem(nodes(*memory), (one,)), one, {})
    assert reason == "model 'm': no plan found for 360 MB in 390 MB free on all nodes"


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1001, "1.1 kB"), (310_000_000, "310 MB")])
def test_sizes_for_people(size: int, text: str) -> None:
    assert megabytes(size) == text


def test_no_models() -> None:
    solution = solve(Problem(nodes(1), ()))
    assert solution.status == "optimal"
    assert solution.stages == {}
    assert solution.objective_s is None


def test_zero_seconds() -> None:
    solution = solve(Problem(nodes(100, 100), (model("m", [1, 1], [[0.0, 0.0]] * 2),)))
    assert (solution.status, solution.objective_s, solution.gap) == ("optimal", 0.0, 0.0)
    assert len(solution.stages["m"]) == 1


def test_the_same_problem_gives_the_same_plan() -> None:
    problem = Problem(nodes(100, 100, 100), (even("a", 7, 3), even("b", 5, 3)))
    assert solve(problem) == solve(Problem.from_json(json.loads(json.dumps(problem.to_json()))))


def test_the_reason_says_that_all_nodes_are_excluded() -> None:
    boxes = tuple(replace(box, excluded=True) for box in nodes(9, 9))
    assert solve(Problem(boxes, (model("m", [1], [[1, 1]]),))).reason == "model 'm': all nodes are excluded"


def test_without_time_there_is_the_best_plan_known_and_a_bound() -> None:
    rng = random.Random(3)
    for objective, replicas in (("throughput", 1), ("throughput", 2), ("latency", 1), ("weighted", 2)):
        problem = plain(rng, 8, 20, replicas, objective)
        found = solve(problem, out_of_time=lambda: True)
        assert found.objective_s is not None and found.lower_bound_s is not None
        assert 0 < found.lower_bound_s <= found.objective_s
        for name in AT_ONCE:
            other = run(problem, name).objective_s
            assert other is None or found.objective_s <= other * (1 + 1e-12)


def test_no_plan_in_time_is_said() -> None:
    problem = Problem(nodes(25, 25, 25), (even("m", 9, 3, weight_mb=8),))
    assert solve(problem).status == "optimal"
    found = solve(replace(problem, models=(even("m", 10, 3, weight_mb=7),)), out_of_time=lambda: True)
    assert found.status == "infeasible" and found.reason.endswith("within the time limit")
    assert found.proven is False


def test_the_sum_of_all_memory_proves_at_once_that_there_is_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[object] = []
    monkeypatch.setattr("stageline_coordinator.planner.respond.build_space", lambda *given, **_: searched.append(given))
    for objective in ("throughput", "latency"):
        problem = replace(plain(random.Random(4), 12, 100, 2, objective), nodes=nodes(*[100] * 11, 5))
        blocks = tuple(replace(block, weight_bytes=12 * MB) for block in problem.models[0].blocks)
        found = solve(replace(problem, models=(replace(problem.models[0], blocks=blocks),)))
        assert (found.status, found.proven, searched) == ("infeasible", True, [])
        assert found.reason == (
            "model 'm' needs at least 111 MB more: its weights are 1200 MB, and beside workspaces n0, n1, n2, n3, n4, "
            "n5, n6, n7, n8, n9, n10 together have 1089 MB for them"
        )


def test_what_the_sum_rules_out_has_no_plan() -> None:
    """Nothing but memory forbids a plan, so as not to hide one that the sum ruled out wrongly."""
    rng, ruled_out = random.Random(5), 0
    for turn in range(50):
        problem = replace(random_problem(rng, 3, 3, 1 + turn % 2), links=None, ingress=None, egress=None)
        models = tuple(replace(with_shared(rng, one), max_replicas=2 - turn % 2) for one in problem.models)
        boxes = tuple(replace(node, memory_bytes=rng.randint(2, 12)) for node in problem.nodes)
        problem = replace(problem, nodes=boxes, models=models)
        claim = {"status": "infeasible", "reason": "the sum", "stages": {}}
        lacking = shortfall(problem, problem.models, {}) > 0
        summed = too_little(read_case(problem.to_json()))
        if lacking or summed:
            ruled_out += 1
            assert math.isinf(best_of_all(problem))
        if summed:
            assert check(problem.to_json(), claim).infeasibility == "proven"
    assert 10 < ruled_out < 45


@pytest.mark.parametrize(("objective", "replicas"), [("throughput", 1), ("throughput", 2), ("latency", 1)])
def test_that_blocks_cannot_be_packed_is_proven_without_a_wide_search(objective: str, replicas: int) -> None:
    """36 blocks of 10 MB on 12 nodes, of which each has room for three and a half; but one for two."""
    problem = plain(random.Random(4), 12, 36, replicas, objective)
    blocks = tuple(replace(block, weight_bytes=10 * MB) for block in problem.models[0].blocks)
    boxes = nodes(29, *[35 + i for i in range(4)] * 2, 36, 37, 38)
    packed = replace(problem, nodes=boxes, models=(replace(problem.models[0], blocks=blocks),))
    assert shortfall(packed, packed.models, {}) <= 0
    found = solve(packed)
    assert (found.status, found.proven) == ("infeasible", True)
    if replicas == 1:
        roomy = replace(packed, nodes=nodes(31, *(node.memory_bytes // MB for node in boxes[1:])))
        assert solve(roomy).stages


def test_an_infeasible_plan_is_proven_or_not() -> None:
    tight = solve(Problem(nodes(25, 25, 25), (even("m", 10, 3, weight_mb=7),)))
    assert (tight.status, tight.proven) == ("infeasible", True)
    assert solve(Problem(nodes(25, 25), (even("m", 3, 2, weight_mb=7),))).proven is None
    both = solve(Problem(nodes(25), (even("a", 2, 1, weight_mb=7), even("b", 2, 1, weight_mb=7))))
    assert (both.status, both.proven, len(both.stages)) == ("infeasible", True, 1)
    three = tuple(even(name, 1, 2, weight_mb=size) for name, size in (("a", 15), ("b", 15), ("c", 6)))
    split = solve(Problem(nodes(20, 20), three))
    assert (split.status, split.proven, len(split.stages)) == ("infeasible", False, 2)


def test_of_equal_bottlenecks_the_plan_on_fewest_nodes_is_reported() -> None:
    port = Port((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    problem = Problem(nodes(1000, 1000, 1000), (even("m", 6, 3),), ingress=port)
    found = solve(problem)
    assert found.objective_s == 1.0
    assert len(found.stages["m"]) == 1


def plain(rng: random.Random, count: int, blocks: int, replicas: int, objective: str) -> Problem:
    chain = tuple(
        Block(f"b{i}", rng.randint(1, 9) * MB, MB, tuple(rng.uniform(0.1, 2) for _ in range(count)))
        for i in range(blocks)
    )
    cuts = tuple(rng.randint(1, 99) * 1000 for _ in range(blocks + 1))
    links = Links(
        tuple(tuple(rng.uniform(1e4, 1e6) for _ in range(count)) for _ in range(count)), ((0.0,) * count,) * count
    )
    boxes = nodes(*(rng.randint(30, 90) for _ in range(count)))
    return Problem(boxes, (Model("m", chain, cuts, max_replicas=replicas),), links, objective=objective)
