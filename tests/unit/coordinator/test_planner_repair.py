"""A usable plan at once after a death, and searches that are cut short anywhere."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from small_problems import random_problem

from stageline_coordinator.planner import Block, Model, Node, Problem, Replan, Running, solve
from stageline_coordinator.planner.check import violations
from stageline_coordinator.planner.evaluate import evaluate
from stageline_coordinator.planner.repair import REPAIR, repaired
from stageline_coordinator.planner.replan import moved_bytes
from stageline_coordinator.planner.solve import improve


def after_death(problem: Problem, rng: random.Random) -> Problem | None:
    """Coming from a plan of which one node is gone: it stays in the problem, excluded."""
    before = solve(problem)
    used = sorted({node for plan in before.stages.values() for stage in plan for node in stage.nodes})
    if before.status == "infeasible" or not used:
        return None
    gone = rng.choice(used)
    nodes = tuple(replace(node, excluded=node.excluded or node.id == gone) for node in problem.nodes)
    current = {
        name: tuple(Running(one.blocks, tuple(n for n in one.nodes if n != gone), one.codec) for one in plan)
        for name, plan in before.stages.items()
    }
    return replace(problem, nodes=nodes, current=current)


def test_a_mended_plan_can_run_and_comes_first() -> None:
    rng, mended = random.Random(0), 0
    for _ in range(50):
        left = after_death(random_problem(rng, 5, 6, models=rng.choice([1, 1, 2])), rng)
        stages = repaired(left) if left else None
        if left is None or stages is None:
            continue
        mended += 1
        assert not evaluate(left, stages).faults
        first, *later = improve(left)
        assert REPAIR in first.algorithm
        assert not violations(left.to_json(), first.to_json())
        final = later[-1] if later else first
        assert final.objective_s is not None and first.objective_s is not None
        assert final.objective_s <= first.objective_s * (1 + 1e-9)
    assert mended > 15


def chain(memory: int, seconds: float = 1.0) -> Problem:
    """Four nodes of which the second is gone; each of the other two serving ones holds two of six blocks."""
    blocks = tuple(Block(f"b{i}", 10, 0, (seconds,) * 4) for i in range(6))
    nodes = tuple(Node(f"n{i}", memory, excluded=i == 1) for i in range(4))
    current = {"m": (Running((0, 2), ("n0",)), Running((2, 4), ()), Running((4, 6), ("n2",)))}
    return Problem(nodes, (Model("m", blocks, (1,) * 7),), current=current, replan=Replan(0.1, 0.02))


def test_a_spare_node_takes_over_and_the_others_keep_what_they_have() -> None:
    stages = repaired(chain(memory=30))
    assert stages is not None
    assert [(one.blocks, one.nodes) for one in stages["m"]] == [((0, 2), ("n0",)), ((2, 4), ("n3",)), ((4, 6), ("n2",))]
    assert moved_bytes(chain(memory=30), stages) == 20


def test_without_a_spare_node_the_neighbours_take_over() -> None:
    problem = chain(memory=60)
    alone = replace(problem, nodes=tuple(replace(n, excluded=n.excluded or n.id == "n3") for n in problem.nodes))
    stages = repaired(alone)
    assert stages is not None
    assert [(one.blocks, one.nodes) for one in stages["m"]] == [((0, 3), ("n0",)), ((3, 6), ("n2",))]


def test_there_is_none_where_nothing_fits() -> None:
    problem = chain(memory=30)
    assert repaired(replace(problem, nodes=tuple(replace(n, excluded=n.id != "n0") for n in problem.nodes))) is None


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_a_search_cut_short_anywhere_claims_nothing_false(objective: str) -> None:
    rng = random.Random(1)
    for _ in range(5):
        problem = replace(random_problem(rng, 5, 6), objective=objective)
        best = solve(problem)
        for patience in (0, 1, 2, 3, 5, 8, 13, 21, 34):
            left = iter(range(patience))
            found = solve(problem, out_of_time=lambda left=left: next(left, None) is None)
            if found.objective_s is None or best.objective_s is None or "infeasible" in (found.status, best.status):
                continue
            assert found.lower_bound_s is not None
            assert found.lower_bound_s <= best.objective_s * (1 + 1e-9)
            assert found.objective_s >= best.objective_s * (1 - 1e-9)
