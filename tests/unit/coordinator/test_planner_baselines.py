"""The baselines do what their papers say, and all of them only what can run."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest

from stageline_coordinator.planner import Block, Links, Model, Node, Port, Problem, solve
from stageline_coordinator.planner.baselines import BASELINES, place
from stageline_coordinator.planner.baselines.paths import class_matching, order_of
from stageline_coordinator.planner.baselines.seifer import least_cuts
from stageline_coordinator.planner.baselines.setting import Setting
from stageline_coordinator.planner.check import check
from stageline_coordinator.planner.evaluate import evaluate


def problem(
    weights: Sequence[int],
    cuts: Sequence[int],
    memory: Sequence[int],
    seconds: Sequence[float] = (),
    bandwidth: Sequence[Sequence[float]] | None = None,
    **more: Port,
) -> Problem:
    """Equal blocks but for their weights: `seconds[i]` each on node i."""
    each = tuple(seconds) or (1.0,) * len(memory)
    blocks = tuple(Block(f"b{b}", weight, 0, each) for b, weight in enumerate(weights))
    links = bandwidth and Links(tuple(map(tuple, bandwidth)), ((0.0,) * len(memory),) * len(memory))
    nodes = tuple(Node(f"n{i}", size) for i, size in enumerate(memory))
    return Problem(nodes, (Model("m", blocks, tuple(cuts)),), links or None, **more)


def random_problem(seed: int, most_nodes: int = 6) -> Problem:
    rng = random.Random(seed)
    nodes, blocks = rng.randint(1, most_nodes), rng.randint(2, 8)
    return problem(
        [rng.randint(1, 9) for _ in range(blocks)],
        [rng.randint(0, 50) for _ in range(blocks + 1)],
        [rng.randint(8, 40) for _ in range(nodes)],
        [rng.uniform(0.1, 1.0) for _ in range(nodes)],
        [[rng.choice([0, 1, 10, 100]) for _ in range(nodes)] for _ in range(nodes)],
    )


def setting(of: Problem) -> Setting:
    return Setting(of, of.models[0], tuple(node.memory_bytes for node in of.nodes))


def stages(of: Problem, name: str, seed: int = 0) -> list[tuple[int, int, str]] | None:
    found = place(of, name, random.Random(seed))
    return found and [(*stage.blocks, *stage.nodes) for stage in found["m"]]  # type: ignore[misc]


@pytest.mark.parametrize("name", BASELINES)
def test_what_a_baseline_finds_can_run(name: str) -> None:
    found = 0
    for seed in range(60):
        of = random_problem(seed)
        plan = place(of, name, random.Random(seed))
        if plan is None:
            continue
        found += 1
        written = {"m": [{"blocks": list(stage.blocks), "nodes": list(stage.nodes)} for stage in plan["m"]]}
        objective = evaluate(of, plan).objective_s
        answer = {"status": "feasible", "objective_s": objective, "stages": written}
        assert check(of.to_json(), answer).violations == ()
    assert found > 5


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_seed_gives_the_same_plan(name: str) -> None:
    of = random_problem(3)
    assert place(of, name, random.Random(1)) == place(of, name, random.Random(1))


@pytest.mark.parametrize("name", BASELINES)
def test_what_cannot_run_is_none(name: str) -> None:
    closed = Port((0.0, 0.0), (0.0, 0.0))
    assert place(problem([1, 1], [1, 1, 1], [5, 5], ingress=closed), name, random.Random(0)) is None
    assert place(problem([9], [1, 1], [5, 5]), name, random.Random(0)) is None
    assert place(Problem((), (Model("m", (Block("b", 1, 0, ()),), (1, 1)),)), name, random.Random(0)) is None


@pytest.mark.parametrize("name", sorted(BASELINES.keys() - {"even", "memory"}))
def test_a_later_model_gets_the_memory_that_is_left(name: str) -> None:
    first = problem([4], [1, 1], [5, 4]).models[0]
    pair = Problem((Node("n0", 5), Node("n1", 4)), (first, Model("later", first.blocks, first.cuts_bytes)))
    found = place(pair, name, random.Random(0))
    assert found is not None
    assert {found["m"][0].nodes, found["later"][0].nodes} == {("n0",), ("n1",)}


def test_random_plans_differ() -> None:
    of = problem([1] * 6, [1] * 7, [4] * 4)
    assert len({tuple(stages(of, "random", seed) or ()) for seed in range(20)}) > 5


def test_an_even_split_takes_fewer_nodes_only_where_it_must() -> None:
    assert stages(problem([1] * 5, [1] * 6, [9, 9]), "even") == [(0, 2, "n0"), (2, 5, "n1")]
    assert stages(problem([1] * 4, [1] * 5, [9, 9, 0]), "even") == [(0, 2, "n0"), (2, 4, "n1")]


def test_memory_decides_how_many_blocks_and_in_which_order() -> None:
    assert stages(problem([1] * 8, [1] * 9, [4, 12]), "memory") == [(0, 6, "n1"), (6, 8, "n0")]


def test_rates_decide_until_memory_does() -> None:
    assert stages(problem([1] * 8, [1] * 9, [9, 9], [1.0, 3.0]), "ar-mdi") == [(0, 6, "n0"), (6, 8, "n1")]
    # n0 would get 6 of 8 but takes 4: its rate becomes 4·(1/3)/(8 - 4), that of n1.
    assert stages(problem([1] * 8, [1] * 9, [4, 9], [1.0, 3.0]), "ar-mdi") == [(0, 4, "n0"), (4, 8, "n1")]
    assert stages(problem([1] * 8, [1] * 9, [4, 3], [1.0, 3.0]), "ar-mdi") is None


def test_least_cuts_have_the_least_sum() -> None:
    for seed in range(60):
        here = setting(random_problem(seed))
        capacity, most = max(here.free), random.Random(seed).randint(1, 4)
        sums = [
            sum(here.model.cuts_bytes[cut] for cut in cuts)
            for count in range(most)
            for cuts in itertools.combinations(range(1, here.blocks), count)
            if all(here.need(a, b) <= capacity for a, b in itertools.pairwise([0, *cuts, here.blocks]))
        ]
        found = least_cuts(here, capacity, most)
        assert (found is None) == (not sums)
        assert found is None or sum(here.model.cuts_bytes[cut] for cut in found) == min(sums)


def test_the_greedy_walk_follows_the_fastest_link_into_dead_ends_that_k_path_matching_avoids() -> None:
    bandwidth = [[0, 9, 5, 1], [1, 0, 1, 1], [1, 9, 0, 5], [1, 9, 1, 0]]
    of = problem([4, 4, 4], [0, 10, 10, 0], [4] * 4, bandwidth=bandwidth)
    walk = stages(of, "seifer-greedy")
    assert walk is not None
    assert setting(of).slowest_hop([1, 2], [int(node[1]) for _, _, node in walk]) == 10.0
    assert stages(of, "seifer-kpath") == [(0, 1, "n0"), (1, 2, "n2"), (2, 3, "n3")]


def test_colour_coding_finds_the_path_with_the_fastest_slowest_link() -> None:
    for seed in range(25):
        rng = random.Random(seed)
        bandwidth = [[rng.randint(1, 99) for _ in range(6)] for _ in range(6)]
        here = setting(problem([1] * 4, [1, 7, 7, 7, 1], [9] * 6, bandwidth=bandwidth))
        best = max(
            min(bandwidth[a][b] for a, b in itertools.pairwise(path)) for path in itertools.permutations(range(6), 4)
        )
        path = class_matching(here, [1, 2, 3], range(6), order_of(here, [1, 2, 3], 2), rng)
        assert path is not None
        assert len(set(path)) == 4
        assert min(bandwidth[a][b] for a, b in itertools.pairwise(path)) == best


def test_the_highest_class_is_placed_first_and_fixes_ends_for_the_next() -> None:
    """The large second hop gets the one fast link; the first has to lead into it over a slow one."""
    bandwidth = [[0, 1, 1], [1, 0, 50], [1, 1, 0]]
    here = setting(problem([1] * 3, [0, 1, 90, 0], [9] * 3, bandwidth=bandwidth))
    order = order_of(here, [1, 2], 2)
    assert order == ((1, 2), (0, 1))
    assert class_matching(here, [1, 2], range(3), order, random.Random(0)) == [0, 1, 2]


def test_pipeedge_is_optimal_where_its_model_holds() -> None:
    for seed in range(12):
        of = random_problem(seed, most_nodes=4)
        best = _best_chain(of)
        plan = place(of, "pipeedge-links", random.Random(0))
        assert (plan is None) == math.isinf(best)
        assert plan is None or evaluate(of, plan).objective_s == pytest.approx(best)


def _best_chain(of: Problem) -> float:
    here, best = setting(of), math.inf
    for count in range(1, min(len(of.nodes), here.blocks) + 1):
        for cuts in itertools.combinations(range(1, here.blocks), count - 1):
            for nodes in itertools.permutations(here.nodes, count):
                bounds = [0, *cuts, here.blocks]
                if all(here.reach(a, n) >= b for a, b, n in zip(bounds, bounds[1:], nodes, strict=False)):
                    spans = zip(bounds, bounds[1:], nodes, strict=False)
                    slowest = max(here.model.stage_seconds(a, b, n) for a, b, n in spans)
                    best = min(best, max(slowest, here.slowest_hop(cuts, nodes)))
    return best


def test_pipeedge_puts_many_different_nodes_into_few_types() -> None:
    rng = random.Random(0)
    of = problem([1] * 12, [1] * 13, [20] * 30, [rng.uniform(1, 2) for _ in range(30)])
    found = stages(of, "pipeedge")
    assert found is not None
    assert len(found) == 12


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 1.0])
def test_the_planner_is_never_worse(seconds: float) -> None:
    """With links that take far longer than all blocks together, too; on more nodes than it can search exhaustively."""
    rng = random.Random(1)
    bandwidth = [[rng.randint(1, 99) for _ in range(18)] for _ in range(18)]
    spent = [seconds * rng.uniform(1, 3) for _ in range(18)]
    of = problem([1] * 8, [rng.randint(1, 50) for _ in range(9)], [3] * 18, spent, bandwidth)
    ours = solve(of).objective_s
    assert ours is not None
    for name in BASELINES:
        plan = place(of, name, random.Random(0))
        assert plan is None or ours <= evaluate(of, plan).objective_s * (1 + 1e-9), name
