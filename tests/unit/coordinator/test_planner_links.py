"""The chain planner with links, ingress and egress against plain enumeration, by every way that it has."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from small_chains import TICKS, Chain, best_plan, every_plan, random_chain, rank

from stageline_coordinator.planner import beam
from stageline_coordinator.planner.chain import MAX_STATES, ChainPlan, improve
from stageline_coordinator.planner.least import least_compute
from stageline_coordinator.planner.masks import moves
from stageline_coordinator.planner.parts import Block, Links, Model, Node, Port
from stageline_coordinator.planner.prices import Pricing, even_prices
from stageline_coordinator.planner.quanta import FORBIDDEN, Quanta
from stageline_coordinator.planner.search import impassable, search


def assert_valid(chain: Chain, plan: ChainPlan) -> None:
    found = rank(chain, plan.runs)
    assert found is not None
    assert [run[0] for run in plan.runs] == [0, *(run[1] for run in plan.runs[:-1])]
    assert plan.runs[-1][1] == len(chain.model.blocks)
    assert len({run[2] for run in plan.runs}) == len(plan.runs)
    assert plan.bottleneck_s == pytest.approx(found[0] / TICKS, abs=2e-6)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_enumeration(seed: int) -> None:
    rng = random.Random(seed)
    infeasible, algorithms = 0, set()
    for _ in range(600):
        chain = random_chain(rng)
        expected, plan = best_plan(chain), chain.solve()
        if expected is None or plan is None:
            assert expected is None and plan is None
            infeasible += 1
            continue
        assert_valid(chain, plan)
        assert rank(chain, plan.runs) == expected
        assert plan.lower_bound_s == plan.bottleneck_s
        algorithms.add(plan.algorithm)
    assert 100 < infeasible < 400  # the generator makes both kinds
    assert algorithms == {"subset-dp", "count-dp"}


def test_merging_interchangeable_nodes_changes_no_figure() -> None:
    rng = random.Random(7)
    merged = 0
    for _ in range(400):
        chain = random_chain(rng)
        one, other = chain.solve(), chain.solve(merge_equal=False)
        assert (one is None) == (other is None)
        if one and other:
            merged += one.algorithm == "count-dp"
            assert rank(chain, one.runs) == rank(chain, other.runs)
    assert merged > 15


@pytest.mark.parametrize("widths", [(1,), (2, 5), beam.WIDTHS])
def test_the_beam_is_valid_and_its_bound_holds(widths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beam, "WIDTHS", widths)
    rng = random.Random(11)
    missed = found = proven = 0
    for _ in range(250):
        chain = random_chain(rng)
        expected, plan = best_plan(chain), chain.solve(max_states=0)
        if expected is None:
            assert plan is None
        elif plan is None:
            missed += 1
        else:
            found += 1
            assert_valid(chain, plan)
            assert plan.algorithm == "beam"
            assert plan.lower_bound_s <= expected[0] / TICKS + 2e-6 <= plan.bottleneck_s + 4e-6
            proven += plan.lower_bound_s == plan.bottleneck_s
    assert found > 100
    assert missed <= found / (10 if widths == (1,) else 50)
    assert proven > 0.9 * found


def test_what_is_proven_impossible_is_impossible() -> None:
    rng = random.Random(13)
    priced = stretches = 0
    for _ in range(150):
        chain = random_chain(rng)
        instance = chain.instance()
        if not instance.types or instance.hardest() == FORBIDDEN:
            continue
        best = best_plan(chain)
        for value in instance.candidates()[::3]:
            allowed = moves(instance, int(value))
            within = best is not None and best[0] <= round(instance.quanta.seconds(int(value)) * TICKS)
            pricing = Pricing(instance, allowed)
            result = pricing.improve(even_prices(instance), 15, lambda: False)
            blocked = any(impassable(instance, allowed, block, 50) for block in range(instance.blocks))
            assert not (within and (result.infeasible or blocked))
            assert result.plan is None or within
            priced, stretches = priced + result.infeasible, stretches + blocked
            found = search(instance, allowed)
            assert found.complete and (found.plan is not None) == within
    assert priced > 80 and stretches > 50


def test_without_time_there_still_is_a_plan_and_its_bound_holds() -> None:
    rng = random.Random(17)
    open_gaps = 0
    for _ in range(150):
        chain = random_chain(rng)
        best = best_plan(chain)
        for max_states in (0, MAX_STATES):
            plan = chain.solve(max_states=max_states, out_of_time=lambda: True)
            if best is None:
                assert plan is None
            elif plan is not None:
                assert_valid(chain, plan)
                assert plan.lower_bound_s <= best[0] / TICKS + 2e-6 <= plan.bottleneck_s + 4e-6
                open_gaps += plan.lower_bound_s < plan.bottleneck_s
            else:
                assert max_states == 0
    assert open_gaps > 20


def test_plans_get_better_one_by_one() -> None:
    rng = random.Random(19)
    steps = 0
    for _ in range(150):
        chain = random_chain(rng)
        ports = {"links": chain.links, "ingress": chain.ingress, "egress": chain.egress}
        for max_states in (0, MAX_STATES):
            said = list(improve(chain.model, chain.nodes, chain.free, chain.load, max_states=max_states, **ports))  # type: ignore[arg-type]
            plans = [plan for plan in said if plan.runs]
            assert plans == said or len(said) == 1  # that there is none is said alone
            steps += max(0, len(plans) - 1)
            for before, after in itertools.pairwise(plans):
                assert before != after
                assert after.bottleneck_s <= before.bottleneck_s + 2e-6
                assert after.lower_bound_s >= before.lower_bound_s - 2e-6
            assert plans[-1:] == [plan for plan in [chain.solve(max_states=max_states)] if plan]
    assert steps > 20


def test_the_search_keeps_its_own_plan_where_tables_would_be_large() -> None:
    rng = random.Random(23)
    differ = 0
    for _ in range(200):
        chain = random_chain(rng)
        plan = chain.solve()
        if plan is None:
            continue
        instance = chain.instance()
        kinds = {node: t for t, members in enumerate(instance.types) for node in members}
        allowed = moves(instance, instance.bottleneck([(a, b, kinds[node]) for a, b, node in plan.runs]))
        found = search(instance, allowed)
        assert found.plan is not None and len(found.plan) == len(plan.runs)
        if len(found.plan) > 1:
            assert least_compute(instance, allowed, found, max_cells=0) == found.plan
        differ += found.plan != least_compute(instance, allowed, found)
    assert differ > 0


def even(blocks: int, nodes: int, cuts: list[int], seconds: float = 0.1) -> Model:
    return Model("m", tuple(Block(f"b{i}", 1, 0, (seconds,) * nodes) for i in range(blocks)), tuple(cuts))


def links(rows: list[list[float]]) -> Links:
    return Links(tuple(map(tuple, rows)), tuple((0.0,) * len(rows) for _ in rows))


def test_the_smaller_cut_is_taken_though_less_is_done_by_then() -> None:
    model = even(4, 2, [0, 1, 1, 1000, 0])
    nodes = [Node("a", 9), Node("b", 9)]
    slow = links([[0, 10.0], [10.0, 0]])
    plan = Chain(model, tuple(nodes), (9, 9), (0.0, 0.0), slow, None, None).solve()
    assert plan is not None
    assert plan.runs == ((0, 2, 0), (2, 4, 1))


def test_a_cut_of_no_bytes_needs_a_link_all_the_same() -> None:
    model = even(2, 2, [0, 0, 0])
    nodes = (Node("a", 9), Node("b", 9))
    one_way = Chain(model, nodes, (9, 9), (0.0, 0.0), links([[0, 0.0], [1.0, 0]]), None, None).solve()
    none = Chain(model, nodes, (9, 9), (0.0, 0.0), links([[0, 0.0], [0.0, 0]]), None, None).solve()
    assert one_way is not None and one_way.runs == ((0, 1, 1), (1, 2, 0))
    assert none is not None and none.runs == ((0, 2, 0),)


def test_a_node_that_the_gateway_cannot_reach_is_neither_first_nor_last() -> None:
    model = even(3, 3, [1, 1, 1, 1])
    nodes = tuple(Node(name, 1) for name in "abc")
    ports = Port((1e3, 0.0, 1e3), (0.0,) * 3), Port((1e3, 0.0, 0.0), (0.0,) * 3)
    plan = Chain(model, nodes, (1,) * 3, (0.0,) * 3, None, *ports).solve()
    assert plan is not None
    assert plan.runs == ((0, 1, 2), (1, 2, 1), (2, 3, 0))


def test_a_link_slower_than_the_chain_by_any_factor_is_compared_exactly() -> None:
    model = even(2, 3, [0, 10**9, 0], seconds=1e-9)
    nodes = tuple(Node(name, 1) for name in "abc")
    rates = links([[0, 1.0, 1.5], [1.0, 0, 1.25], [1.0, 1.75, 0]])
    plan = Chain(model, nodes, (1,) * 3, (0.0,) * 3, rates, None, None).solve()
    assert plan is not None
    assert plan.runs == ((0, 1, 2), (1, 2, 1))
    assert plan.bottleneck_s == plan.lower_bound_s == 10**9 / 1.75


def test_links_alone_decide_where_computing_takes_no_time() -> None:
    model = even(2, 2, [0, 3, 0], seconds=0.0)
    nodes, rates = (Node("a", 1), Node("b", 1)), links([[0, 2.0], [4.0, 0]])
    plan = Chain(model, nodes, (1, 1), (0.0, 0.0), rates, None, None).solve()
    assert plan is not None
    assert plan.runs == ((0, 1, 1), (1, 2, 0))
    assert plan.bottleneck_s == 0.75


def test_values_beyond_the_quanta_keep_their_order() -> None:
    import numpy as np

    seconds = np.array([0.0, 0.5, 1e9, 2e9, math.inf])
    quanta = Quanta.upto(1.0).with_beyond(seconds)
    values = quanta.compared(seconds)
    assert (np.diff(values) > 0).all() and values[-1] == FORBIDDEN
    assert [quanta.seconds(int(value)) for value in values[:-1]] == [0.0, 0.5, 1e9, 2e9]


def test_every_plan_is_enumerated() -> None:
    nodes = tuple(Node(name, 9) for name in "abc")
    chain = Chain(even(3, 3, [0] * 4), nodes, (9,) * 3, (0.0,) * 3, None, None, None)
    assert len(every_plan(chain)) == 3 + 2 * 6 + 6
