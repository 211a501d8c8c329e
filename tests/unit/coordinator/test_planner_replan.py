"""Coming from a running plan: staying, moving little, and fitting beside it."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from small_problems import all_joint, random_problem, with_current, with_media, with_shared

from stageline_coordinator.planner import Block, Model, Move, Node, Problem, Replan, Running, solve
from stageline_coordinator.planner.check import check
from stageline_coordinator.planner.evaluate import evaluate
from stageline_coordinator.planner.replan import current_stages, moved_bytes


def line(blocks: int, speeds: tuple[float, ...], running: dict[tuple[int, int], str], **more: float) -> Problem:
    """Blocks of 10 bytes that take 1 s divided by the node's speed."""
    parts = tuple(Block(f"b{i}", 10, 0, tuple(1 / speed for speed in speeds)) for i in range(blocks))
    nodes = tuple(Node(f"n{i}", 1000) for i in range(len(speeds)))
    current = {"m": tuple(Running(run, (node,)) for run, node in running.items())}
    return Problem(nodes, (Model("m", parts, (0,) * (blocks + 1)),), current=current, replan=Replan(**more))


def hosts(problem: Problem) -> list[tuple[tuple[int, int], str]]:
    return [(stage.blocks, stage.nodes[0]) for stage in solve(problem).stages["m"]]


def test_a_plan_is_kept_until_another_is_better_by_more_than_the_threshold() -> None:
    running = {(0, 6): "n0", (6, 10): "n1"}
    kept = solve(line(10, (1.0, 1.0), running, threshold=0.2))
    assert [stage.nodes for stage in kept.stages["m"]] == [("n0",), ("n1",)]
    assert (kept.objective_s, kept.moves, kept.moved_bytes) == (6.0, (), 0)
    assert kept.status == "feasible" and kept.gap == pytest.approx(1 / 6)
    assert kept.reason == "the running plan is kept: the best one found is 16.7% better"
    left = solve(line(10, (1.0, 1.0), running, threshold=0.1))
    assert left.objective_s == 5.0
    assert left.moves == (Move("m", "n1", (5, 6), 10),) and left.moved_bytes == 10


def test_of_equally_good_plans_the_nearest_is_taken() -> None:
    running = {(0, 1): "n2", (1, 10): "n1"}
    assert hosts(line(10, (1.0, 1.0, 1.0, 1.0), running, threshold=0.1, tolerance=0.7))[1][1] == "n1"
    solution = solve(line(10, (1.0, 1.0), {(0, 2): "n1", (2, 10): "n0"}))
    assert [(s.blocks, s.nodes) for s in solution.stages["m"]] == [((0, 5), ("n1",)), ((5, 10), ("n0",))]
    assert solution.moves == (Move("m", "n1", (2, 5), 30),)


def test_what_ran_on_a_lost_node_moves_and_the_rest_stays() -> None:
    solution = solve(
        replace(line(9, (1.0,) * 4, {(0, 3): "n2", (6, 9): "n1"}), nodes=tuple(Node(f"n{i}", 30) for i in range(4)))
    )
    assert [stage.nodes[0] for stage in solution.stages["m"]][0::2] == ["n2", "n1"]
    assert solution.moved_bytes == 30


def test_what_does_not_fit_beside_the_running_plan_says_so() -> None:
    problem = replace(line(2, (1.0,), {(0, 1): "n0"}), nodes=(Node("n0", 20),))
    assert solve(problem).status == "optimal"
    parts = tuple(replace(block, workspace_bytes=4) for block in problem.models[0].blocks)
    tight = replace(problem, models=(replace(problem.models[0], blocks=parts),), nodes=(Node("n0", 24),))
    solution = solve(tight)
    assert solution.status == "infeasible"
    assert solution.reason == (
        "model 'm': block b1 (14 B) fits on no node: it needs 4 B more on n0, beside the running plan"
    )
    assert solve(replace(tight, nodes=(Node("n0", 28),))).status == "optimal"


def test_solving_again_from_the_answer_changes_nothing() -> None:
    rng = random.Random(4)
    for _ in range(15):
        problem = random_problem(rng, 3, 5)
        first = solve(problem)
        if first.status == "infeasible":
            continue
        running = {"m0": tuple(Running(stage.blocks, stage.nodes) for stage in first.stages["m0"])}
        again = solve(replace(problem, current=running))
        assert again.stages == first.stages
        assert again.moves == ()


@pytest.mark.parametrize("kind", ["throughput", "latency", "medium", "tied", "two models"])
def test_against_all_plans(kind: str) -> None:
    """Feasible beside the running plan, kept rightly, good enough, and with one model of a chain as near as can be."""
    rng = random.Random(kind)
    moved = 0
    for _ in range(25):
        problem = random_problem(rng, rng.randint(2, 3), rng.randint(2, 3), models=2 if kind == "two models" else 1)
        problem = with_media(rng, problem, 1) if kind == "medium" else problem
        if kind == "tied":
            problem = replace(problem, models=tuple(with_shared(rng, model) for model in problem.models))
        problem = replace(problem, objective="latency" if kind == "latency" else "throughput")
        problem = with_current(rng, problem)
        solution, plans = solve(problem), list(all_joint(problem))
        best = min((value for _, value in plans), default=math.inf)
        if solution.status == "infeasible":
            assert math.isinf(best)
            continue
        assert evaluate(problem, solution.stages).faults == ()
        assert check(problem.to_json(), json.loads(json.dumps(solution.to_json()))).violations == ()
        assert solution.objective_s is not None and (solution.lower_bound_s or 0) <= best * (1 + 1e-9)
        now = evaluate(problem, current_stages(problem))
        if not now.faults and best >= now.objective_s * 0.95:
            assert solution.moved_bytes == 0 and solution.objective_s == now.objective_s
            continue
        limit = best * 1.02 if now.faults else min(best * 1.02, now.objective_s * 0.95)
        assert solution.objective_s <= limit * (1 + 1e-9)
        least = min(moved_bytes(problem, stages) for stages, value in plans if value <= limit)
        assert solution.moved_bytes == least or kind in ("two models", "medium", "latency")
        moved += solution.moved_bytes > 0
    assert moved > 3
