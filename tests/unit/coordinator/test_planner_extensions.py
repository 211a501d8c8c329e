"""Each extension of the planner against all plans of small random problems.

A solution must be what the evaluation says it is, its bound at most the best plan's objective, and the best plan
reached where it is called optimal; one model within a few nodes always is.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from small_problems import best_of_all, random_problem, with_codecs, with_media, with_shared

from stageline_coordinator.planner import Problem, Solution, solve
from stageline_coordinator.planner.check import check
from stageline_coordinator.planner.evaluate import evaluate

Change = Callable[[random.Random, Problem], Problem]


def assert_sound(problem: Problem, solution: Solution, best: float) -> None:
    """Whatever the planner says is true."""
    if math.isinf(best):
        assert solution.status == "infeasible"
        return
    assert solution.status != "infeasible", solution.reason
    found = evaluate(problem, solution.stages)
    assert found.faults == ()
    assert solution.objective_s == found.objective_s
    assert solution.lower_bound_s is not None and solution.gap is not None
    assert best * (1 - 1e-9) <= solution.objective_s
    assert solution.lower_bound_s <= best * (1 + 1e-9)
    assert (solution.gap == 0) == (solution.status == "optimal")
    assert check(json.loads(json.dumps(problem.to_json())), json.loads(json.dumps(solution.to_json()))).violations == ()


def plain(rng: random.Random, problem: Problem) -> Problem:
    return problem


def replicas(rng: random.Random, problem: Problem) -> Problem:
    return replace(problem, models=tuple(replace(one, max_replicas=rng.randint(2, 3)) for one in problem.models))


def codecs(rng: random.Random, problem: Problem) -> Problem:
    return replace(problem, models=tuple(with_codecs(rng, one) for one in problem.models))


def medium(rng: random.Random, problem: Problem) -> Problem:
    return with_media(rng, problem, 1)


def picky(rng: random.Random, problem: Problem) -> Problem:
    """A source, a required and an excluded node, each now and then."""
    ids = [node.id for node in problem.nodes]
    which = rng.choice(ids), rng.choice(ids)
    nodes = tuple(
        replace(node, required=node.id == which[0], excluded=node.id == which[1] != which[0] and rng.random() < 0.5)
        for node in problem.nodes
    )
    models = tuple(replace(one, source=rng.choice([None, *ids])) for one in problem.models)
    return replace(problem, nodes=nodes, models=models)


def demanding(rng: random.Random, problem: Problem) -> Problem:
    """Models that want nodes of their own."""
    ids = [node.id for node in problem.nodes]
    models = tuple(replace(one, required=tuple(rng.sample(ids, rng.choice([0, 1, 1])))) for one in problem.models)
    return replace(problem, models=models)


def tied(rng: random.Random, problem: Problem) -> Problem:
    """Blocks that share weights, on nodes that hardly hold them."""
    models = tuple(with_shared(rng, one) for one in problem.models)
    nodes = tuple(replace(node, memory_bytes=rng.randint(4, 15)) for node in problem.nodes)
    return replace(problem, models=models, nodes=nodes)


def latency(rng: random.Random, problem: Problem) -> Problem:
    return replace(problem, objective="latency")


SINGLE: list[tuple[str, list[Change], int, int, int]] = [
    ("plain", [plain], 60, 3, 5),
    ("replicas", [replicas], 40, 3, 3),
    ("codecs", [codecs], 40, 3, 4),
    ("medium", [medium], 60, 3, 5),
    ("picky", [picky], 60, 3, 4),
    ("demanding", [demanding], 60, 3, 4),
    ("demanding, picky, latency", [demanding, picky, latency], 40, 3, 4),
    ("tied", [tied], 60, 3, 5),
    ("tied, latency", [tied, latency], 30, 3, 4),
    ("latency", [latency], 60, 3, 5),
    ("latency, codecs, picky", [latency, codecs, picky], 40, 3, 4),
    ("replicas, codecs, medium", [replicas, codecs, medium], 15, 3, 3),
    ("replicas, picky, latency", [replicas, picky, latency], 30, 3, 3),
    ("replicas, picky, demanding", [replicas, picky, demanding], 30, 3, 3),
]


@pytest.mark.parametrize(
    ("changes", "cases", "nodes", "blocks"), [one[1:] for one in SINGLE], ids=[o[0] for o in SINGLE]
)
def test_one_model(changes: list[Change], cases: int, nodes: int, blocks: int) -> None:
    rng = random.Random(f"{len(changes)}{changes[0].__name__}")
    feasible = proven = 0
    for _ in range(cases):
        problem = random_problem(rng, rng.randint(2, nodes), rng.randint(2, blocks))
        for change in changes:
            problem = change(rng, problem)
        best, solution = best_of_all(problem), solve(problem, algorithm="labels")
        assert_sound(problem, solution, best)
        if math.isfinite(best):
            feasible += 1
            proven += solution.status == "optimal"
            assert solution.objective_s == pytest.approx(best, rel=1e-9) or solution.status == "feasible"
    assert feasible > cases / 3
    assert proven == feasible


def test_the_chain_solver_and_the_label_search_agree() -> None:
    rng = random.Random(5)
    for _ in range(60):
        problem = tied(rng, random_problem(rng, rng.randint(1, 4), rng.randint(1, 7)))
        chain, labels = solve(problem), solve(problem, algorithm="labels")
        assert chain.status == labels.status
        if chain.status == "optimal":
            assert chain.objective_s == pytest.approx(labels.objective_s, rel=1e-9)
            assert len(chain.stages["m0"]) == len(labels.stages["m0"])


def several(rng: random.Random, problem: Problem) -> Problem:
    """Rates and priorities, some unknown or equal."""
    models = tuple(
        replace(one, rate_per_s=rng.choice([None, 1.0, 3.0]), priority=rng.choice([1.0, 1.0, 3.0]))
        for one in problem.models
    )
    nodes = tuple(replace(node, memory_bytes=node.memory_bytes + 10) for node in problem.nodes)
    return replace(problem, models=models, nodes=nodes)


def weighted(rng: random.Random, problem: Problem) -> Problem:
    return replace(problem, objective="weighted")


@pytest.mark.parametrize(
    ("changes", "nodes", "blocks"),
    [
        ([several], 3, 3),
        ([several, medium], 3, 3),
        ([several, weighted], 3, 3),
        ([several, replicas], 3, 2),
        ([several, demanding], 3, 3),
        ([several, picky, replicas], 3, 2),
        ([several, tied, weighted], 3, 3),
    ],
    ids=["throughput", "medium", "weighted", "replicas", "demanding", "picky replicas", "tied"],
)
def test_two_models(changes: list[Change], nodes: int, blocks: int) -> None:
    """All plans of so small a problem are looked at: what is found is the best, and what is not found is not there."""
    rng, feasible = random.Random(f"{len(changes)}{changes[-1].__name__}"), 0
    for _ in range(15):
        problem = random_problem(rng, rng.randint(2, nodes), rng.randint(1, blocks), models=2)
        for change in changes:
            problem = change(rng, problem)
        best, solution = best_of_all(problem), solve(problem)
        assert_sound(problem, solution, best)
        if math.isfinite(best):
            feasible += 1
            assert solution.status == "optimal"
            assert solution.objective_s == pytest.approx(best, rel=1e-9)
    assert feasible > 8
