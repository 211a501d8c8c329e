"""The exact chain planner against an independent brute force, and the heuristic's bound against the exact one."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from stageline_coordinator.planner.chain import MAX_STATES, ChainPlan, solve_chain
from stageline_coordinator.planner.instance import build
from stageline_coordinator.planner.lattice import furthest, lattice
from stageline_coordinator.planner.problem import Block, Model, Node
from stageline_coordinator.planner.ties import cheapest

TENTH = 10  # instances are in whole tenths of a second, so that ties are real


def chain(tenths: list[list[float]], weights: list[int], workspace: list[int], buffers: int = 0) -> Model:
    blocks = tuple(
        Block(f"b{i}", weights[i], workspace[i], tuple(t / TENTH for t in row)) for i, row in enumerate(tenths)
    )
    return Model("m", blocks, (1,) * (len(blocks) + 1), buffer_bytes=buffers)


def random_case(rng: random.Random) -> tuple[Model, list[Node], list[int], list[float]]:
    count, size = rng.randint(1, 4), rng.randint(1, 5)
    kinds = rng.randint(1, count)
    kind = [rng.randrange(kinds) for _ in range(count)]
    top = rng.choice([1, 3, 20])
    column = [[float(rng.randint(0, top)) for _ in range(kinds)] for _ in range(size)]
    if rng.random() < 0.15:
        column[rng.randrange(size)][rng.randrange(kinds)] = math.inf
    weights = [rng.randint(0, 9) for _ in range(size)]
    workspace = [rng.randint(0, 4) for _ in range(size)]
    room = [rng.randint(2, 40) for _ in range(kinds)]
    base = rng.randint(0, 2)
    nodes = [Node(f"n{i}", room[kind[i]] + 5, base) for i in range(count)]
    free = [node.memory_bytes - rng.choice([0, 0, 5]) for node in nodes]
    load = [rng.choice([0.0, 0.0, 0.3]) for _ in nodes]
    model = chain([[row[k] for k in kind] for row in column], weights, workspace, rng.randint(0, 2))
    return model, nodes, free, load


def brute_force(model: Model, nodes: list[Node], free: list[int], load: list[float]) -> tuple[int, int, int] | None:
    """(bottleneck, stages, sum of compute), in tenths, of the best of all cut sets times all node orders."""
    best: tuple[int, int, int] | None = None
    size = len(model.blocks)
    for stages in range(1, min(size, len(nodes)) + 1):
        for cuts in itertools.combinations(range(1, size), stages - 1):
            edges = [0, *cuts, size]
            for order in itertools.permutations(range(len(nodes)), stages):
                times = []
                for start, end, node in zip(edges, edges[1:], order, strict=False):
                    run = model.blocks[start:end]
                    need = nodes[node].base_bytes + model.buffer_bytes + sum(b.weight_bytes for b in run)
                    need += max(b.workspace_bytes for b in run)
                    if need > free[node] or any(math.isinf(b.seconds[node]) for b in run):
                        break
                    spent = sum(round(b.seconds[node] * TENTH) for b in run)
                    times.append((spent + round(load[node] * TENTH), spent))
                else:
                    found = (max(t for t, _ in times), stages, sum(s for _, s in times))
                    best = found if best is None else min(best, found)
    return best


def measured(model: Model, plan: ChainPlan, load: list[float]) -> tuple[int, int, int]:
    spent = [round(model.stage_seconds(*run) * TENTH) for run in plan.runs]
    busy = [s + round(load[run[2]] * TENTH) for s, run in zip(spent, plan.runs, strict=True)]
    return max(busy), len(plan.runs), sum(spent)


def assert_valid(model: Model, nodes: list[Node], free: list[int], plan: ChainPlan) -> None:
    assert [run[0] for run in plan.runs] == [0, *(run[1] for run in plan.runs[:-1])]
    assert plan.runs[-1][1] == len(model.blocks)
    used = [run[2] for run in plan.runs]
    assert len(set(used)) == len(used)
    for start, end, node in plan.runs:
        assert start < end
        assert nodes[node].base_bytes + model.stage_bytes(start, end) <= free[node]


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    infeasible = 0
    for _ in range(750):
        model, nodes, free, load = random_case(rng)
        expected = brute_force(model, nodes, free, load)
        plan = solve_chain(model, nodes, free, load)
        if expected is None or plan is None:
            assert expected is None and plan is None
            infeasible += 1
            continue
        assert_valid(model, nodes, free, plan)
        assert measured(model, plan, load) == expected
        assert plan.lower_bound_s == plan.bottleneck_s == pytest.approx(expected[0] / TENTH)
    assert 50 < infeasible < 500  # the generator makes both kinds


def test_merging_equal_nodes_changes_no_figure() -> None:
    rng = random.Random(7)
    merged = 0
    for _ in range(300):
        model, nodes, free, load = random_case(rng)
        one = solve_chain(model, nodes, free, load)
        other = solve_chain(model, nodes, free, load, merge_equal=False)
        assert (one is None) == (other is None)
        if one and other:
            merged += one.algorithm == "count-dp"
            assert measured(model, one, load) == measured(model, other, load)
    assert merged > 50


def assert_between(beam: ChainPlan, exact: ChainPlan) -> None:
    rounding = 1e-12 * exact.bottleneck_s
    assert beam.lower_bound_s - rounding <= exact.bottleneck_s <= beam.bottleneck_s + rounding


def test_the_beam_is_valid_and_its_bound_holds() -> None:
    rng = random.Random(11)
    missed = found = 0
    for _ in range(600):
        model, nodes, free, load = random_case(rng)
        exact = solve_chain(model, nodes, free, load)
        beam = solve_chain(model, nodes, free, load, max_states=0)
        if exact is None:
            assert beam is None
        elif beam is None:
            missed += 1
        else:
            found += 1
            assert_valid(model, nodes, free, beam)
            assert_between(beam, exact)
    assert missed <= found / 100


def larger_case(count: int, size: int, kinds: int, seed: int) -> tuple[Model, list[Node]]:
    rng = random.Random(seed)
    weights = [rng.randint(1, 20) for _ in range(size)]
    room = [rng.randint(1, 3) * sum(weights) // count + 25 for _ in range(kinds)]
    speed = [rng.uniform(1, 10) for _ in range(kinds)]
    rows = [[rng.uniform(1, 10) / speed[i % kinds] for i in range(count)] for _ in range(size)]
    if kinds < count:
        rows = [[row[i % kinds] for i in range(count)] for row in rows]
    return chain(rows, weights, [1] * size), [Node(f"n{i}", room[i % kinds]) for i in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_the_beam_bound_on_more_nodes(seed: int) -> None:
    model, nodes = larger_case(9, 30, 9, seed)
    free, load = [node.memory_bytes for node in nodes], [0.0] * 9
    exact = solve_chain(model, nodes, free, load)
    beam = solve_chain(model, nodes, free, load, max_states=0)
    assert exact is not None and beam is not None
    assert_between(beam, exact)
    assert beam.bottleneck_s <= 1.1 * exact.bottleneck_s


@pytest.mark.parametrize(("count", "kinds", "algorithm"), [(12, 12, "subset-dp"), (20, 3, "count-dp")])
def test_sizes_that_are_solved_exactly(count: int, kinds: int, algorithm: str) -> None:
    model, nodes = larger_case(count, 100, kinds, 3)
    plan = solve_chain(model, nodes, [node.memory_bytes for node in nodes], [0.0] * count)
    assert plan is not None and plan.algorithm == algorithm
    assert plan.lower_bound_s == plan.bottleneck_s


def test_more_different_nodes_are_close_to_a_proven_bound() -> None:
    model, nodes = larger_case(30, 50, 30, 3)
    plan = solve_chain(model, nodes, [node.memory_bytes for node in nodes], [0.0] * 30)
    assert plan is not None and plan.algorithm == "beam"
    assert plan.lower_bound_s >= 0.98 * plan.bottleneck_s


def test_the_cheap_tie_break_keeps_bottleneck_and_stages() -> None:
    rng = random.Random(5)
    for _ in range(200):
        model, nodes, free, load = random_case(rng)
        plan = solve_chain(model, nodes, free, load)
        if plan:
            instance = build(model, nodes, free, load)
            bound = max(instance.cost[kind, a, b] for a, b, kind in _typed(instance.types, plan))
            runs = cheapest(instance, int(bound), max_work=-1)
            assert len(runs) == len(plan.runs)
            assert max(instance.cost[kind, a, b] for a, b, kind in runs) == bound
            assert [a for a, _, _ in runs[1:]] == [b for _, b, _ in runs[:-1]]


def _typed(types: tuple[tuple[int, ...], ...], plan: ChainPlan) -> list[tuple[int, int, int]]:
    kind = {node: t for t, members in enumerate(types) for node in members}
    return [(a, b, kind[node]) for a, b, node in plan.runs]


def test_a_node_that_would_only_add_a_hop_is_left_out() -> None:
    model = chain([[5.0, 5.0, 5.0], [1.0, 1.0, 1.0], [4.0, 4.0, 4.0]], [1] * 3, [0] * 3)
    nodes = [Node(f"n{i}", 10) for i in range(3)]
    plan = solve_chain(model, nodes, [10] * 3, [0.0] * 3)
    assert plan is not None
    assert plan.runs == ((0, 1, 0), (1, 3, 1))


def test_decimal_ties_are_ties() -> None:
    model = chain([[1.0, 3.0], [2.0, 3.0], [3.0, 3.0]], [1] * 3, [0] * 3)  # 0.1 + 0.2 beside 0.3
    plan = solve_chain(model, [Node("a", 9), Node("b", 9)], [9, 9], [0.0, 0.0])
    assert plan is not None
    assert plan.runs == ((0, 2, 0), (2, 3, 1))


def test_a_busy_node_is_avoided() -> None:
    model = chain([[1.0, 2.0]], [1], [0])
    nodes = [Node("fast", 9), Node("slow", 9)]
    plan = solve_chain(model, nodes, [9, 9], [0.2, 0.0])
    assert plan is not None
    assert plan.runs == ((0, 1, 1),)


def test_the_lattice_counts_multisets() -> None:
    space = lattice((2, 1))
    assert space.size == 6
    assert [len(states) for states in space.levels] == [1, 2, 2, 1]
    instance = build(chain([[1.0, 1.0, 9.0]] * 3, [1] * 3, [0] * 3), [Node(c, 9) for c in "abc"], [9] * 3, [0] * 3)
    assert instance.counts == (2, 1)
    assert furthest(instance, instance.quanta.of(0.2)).max() == 3


def test_there_is_no_plan_when_nothing_fits() -> None:
    model = chain([[1.0, 1.0]] * 3, [5] * 3, [0] * 3)
    for max_states in (0, MAX_STATES):
        assert solve_chain(model, [Node("a", 6), Node("b", 7)], [6, 7], [0.0, 0.0], max_states=max_states) is None
    assert solve_chain(model, [Node("a", 4), Node("b", 4)], [4, 4], [0.0, 0.0]) is None
    assert solve_chain(model, [], [], []) is None
