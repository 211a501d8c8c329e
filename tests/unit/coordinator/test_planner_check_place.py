"""A claim that there is no plan is decided by the checker's own search, against brute force."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from small_problems import best_of_all, random_problem, with_current

from stageline_coordinator.planner import Problem, solve
from stageline_coordinator.planner.check import check


def _tight(rng: random.Random, problem: Problem) -> Problem:
    """With less memory, so that often nothing fits."""
    nodes = (replace(node, memory_bytes=rng.randint(0, node.memory_bytes)) for node in problem.nodes)
    return replace(problem, nodes=tuple(nodes))


def test_false_claims_are_refuted_and_true_ones_proven() -> None:
    rng, seen = random.Random(5), {"proven": 0, "refuted": 0, "open": 0}
    for number in range(300):
        problem = random_problem(rng, 3, 4)
        problem = with_current(rng, problem) if number % 4 == 0 else _tight(rng, problem)
        possible = math.isfinite(best_of_all(problem))
        claim = {"status": "infeasible", "reason": "it is said", "stages": {}}
        report = check(problem.to_json(), claim)
        seen[report.infeasibility] += 1
        assert report.infeasibility == ("refuted" if possible else "proven")
        assert report.ok is not possible
        if not possible:
            assert check(problem.to_json(), solve(problem).to_json()).ok
    assert seen["proven"] > 20 and seen["refuted"] > 20 and not seen["open"]


def test_a_model_left_out_beside_others_is_placed_or_left_open() -> None:
    rng, seen = random.Random(6), {"refuted": 0, "open": 0}
    for _ in range(60):
        problem = random_problem(rng, 4, 4, models=2)
        found = solve(problem).to_json()
        if found["status"] == "infeasible":
            seen["open"] += check(problem.to_json(), found).infeasibility == "open"
            continue
        first = problem.models[0].name
        stages = {name: plan for name, plan in found["stages"].items() if name == first}  # type: ignore[attr-defined]
        claim = {"status": "infeasible", "reason": "the other has no room", "stages": stages}
        seen["refuted"] += check(problem.to_json(), claim).infeasibility == "refuted"
    assert seen["refuted"] > 10
