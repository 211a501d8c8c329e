"""What a plan costs, against figures worked out by hand; every reason why a plan cannot run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from stageline_coordinator.planner import (
    Block,
    Codec,
    Links,
    Medium,
    Model,
    Node,
    Port,
    Problem,
    Running,
    StageAssignment,
)
from stageline_coordinator.planner.costs import replica_shares
from stageline_coordinator.planner.evaluate import evaluate

INF = math.inf
BLOCKS = (Block("b0", 10, 4, (1.0, 2.0, 4.0)), Block("b1", 20, 6, (3.0, 6.0, 2.0)), Block("b2", 5, 1, (1.0, 1.0, 1.0)))
MODEL = Model("m", BLOCKS, (100, 200, 50, 10))
NODES = (Node("a", 50), Node("b", 50), Node("c", 50))
LINKS = Links(((0, 100, 25), (50, 0, INF), (10, 10, 0)), ((0, 0.5, 0.5), (0.25, 0, 0.125), (1, 1, 0)))
PROBLEM = Problem(NODES, (MODEL,), LINKS, Port((100, 50, 20), (0.1, 0.2, 0.3)), Port((5, 2, 1), (0.01, 0.02, 0.03)))

STAGES = {"m": (StageAssignment((0, 1), ("a",)), StageAssignment((1, 3), ("c",)))}


def stage(start: int, end: int, *nodes: str, codec: str = "none") -> StageAssignment:
    return StageAssignment((start, end), nodes, codec)


def test_stages_hops_and_ports() -> None:
    found = evaluate(PROBLEM, STAGES)
    assert found.faults == ()
    assert found.busy.nodes == {"a": 1.0, "c": 3.0}
    assert found.busy.links == {("a", "c"): 8.0}
    assert (found.busy.ingress, found.busy.egress) == ({"a": 1.0}, {"c": 10.0})
    assert found.objective_s == found.bottleneck_s == 10.0
    assert found.models["m"].latency_s == pytest.approx(1 + 0.1 + 1 + 8 + 0.5 + 3 + 10 + 0.03)
    assert [one.transfer_in_s for one in found.models["m"].stages] == [1.0, 8.0]
    assert [one.compute_s for one in found.models["m"].stages] == [1.0, 3.0]
    assert evaluate(replace(PROBLEM, objective="latency"), STAGES).objective_s == found.models["m"].latency_s


def test_what_is_free() -> None:
    free = Problem(NODES, (MODEL,))
    assert evaluate(free, STAGES).objective_s == 3.0
    unlimited = evaluate(PROBLEM, {"m": (stage(0, 1, "b"), stage(1, 3, "c"))})
    assert unlimited.busy.links == {("b", "c"): 0.0}


def test_cpu_seconds_of_messages_and_bytes() -> None:
    nodes = (replace(NODES[0], hop_s=0.25, byte_s=0.01), NODES[1], replace(NODES[2], byte_s=0.02))
    found = evaluate(replace(PROBLEM, nodes=nodes), STAGES)
    assert found.busy.nodes == pytest.approx({"a": 1 + 0.5 + 0.01 * 300, "c": 3 + 0.02 * 210})
    assert found.models["m"].stages[0].compute_s == 1.0


def test_a_codec_saves_bytes_and_costs_seconds_at_both_ends() -> None:
    codec = Codec("int8", 0.25, 0.01, 0.001)
    nodes = (replace(NODES[0], byte_s=0.01), *NODES[1:])
    problem = replace(PROBLEM, nodes=nodes, models=(replace(MODEL, codecs=(codec,), tolerance=0.01),))
    found = evaluate(problem, {"m": (STAGES["m"][0], stage(1, 3, "c", codec="int8"))})
    assert found.faults == ()
    assert found.busy.links == {("a", "c"): 2.0}
    assert found.busy.nodes == pytest.approx({"a": 1 + 0.01 * 150 + 0.2, "c": 3 + 0.2})


def test_replicas_share_by_speed() -> None:
    model = replace(MODEL, max_replicas=2)
    plan = {"m": (stage(0, 1, "a", "b"), stage(1, 3, "c"))}
    found = evaluate(replace(PROBLEM, models=(model,)), plan)
    assert found.faults == ()
    assert found.models["m"].stages[0].shares == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert found.busy.nodes == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 3.0})
    assert found.busy.links == pytest.approx({("a", "c"): 2 / 3 * 8, ("b", "c"): 0.0})
    assert found.busy.ingress == pytest.approx({"a": 2 / 3, "b": 2 / 3})
    compute, ports = 2 / 3 * 1 + 1 / 3 * 2 + 3, 2 / 3 * 1.1 + 1 / 3 * 2.2 + 10.03
    assert found.models["m"].latency_s == pytest.approx(compute + ports + 2 / 3 * 8.5 + 1 / 3 * 0.125)


@pytest.mark.parametrize(
    ("costs", "shares"),
    [([2.0], [1]), ([1.0, 3.0], [0.75, 0.25]), ([0.0, 1.0, 0.0], [0.5, 0, 0.5]), ([INF, 1.0], [0, 1]), ([INF], [1])],
)
def test_shares(costs: list[float], shares: list[float]) -> None:
    assert replica_shares(costs) == pytest.approx(shares)


def test_a_medium_carries_all_hops_between_its_nodes() -> None:
    problem = replace(PROBLEM, media=(Medium("wifi", ("a", "c"), 40), Medium("lan", ("a", "b"), 1)))
    plan = {"m": (stage(0, 1, "c"), stage(1, 2, "a"), stage(2, 3, "b"))}
    assert evaluate(problem, plan).busy.media == {"wifi": 5.0, "lan": 50.0}


def pair(**more: float) -> tuple[Model, Model]:
    other = Model("o", (Block("x", 1, 0, (2.0, 1.0, 1.0)),), (0, 0), rate_per_s=1.0, **more)  # type: ignore[arg-type]
    return replace(MODEL, rate_per_s=4.0), other


def test_models_weigh_by_their_rates() -> None:
    found = evaluate(replace(PROBLEM, models=pair()), {**STAGES, "o": (stage(0, 1, "a"),)})
    assert found.faults == ()
    assert found.busy.nodes == {"a": 1.0 + 2.0 / 4, "c": 3.0}
    assert found.load_factor == pytest.approx(1 / (10.0 * 4))
    unknown = (replace(MODEL, rate_per_s=None), pair()[1])
    found = evaluate(replace(PROBLEM, models=unknown), {**STAGES, "o": (stage(0, 1, "a"),)})
    assert found.busy.nodes["a"] == 3.0
    assert found.load_factor is None


def test_the_weighted_objective_waits_for_equal_and_higher_priorities() -> None:
    plan = {**STAGES, "o": (stage(0, 1, "a"),)}
    alone = evaluate(PROBLEM, STAGES).models["m"].latency_s
    other = 2.0 + 0.1 + 0.01
    for priority, wait, theirs in ((1.0, 0.5, 1.0), (3.0, 0.5, 0.0), (0.5, 0.0, 1.0)):
        problem = replace(PROBLEM, models=pair(priority=priority), objective="weighted")
        found = evaluate(problem, plan)
        assert (found.models["m"].wait_s, found.models["o"].wait_s) == (wait, theirs)
        expected = (alone + wait + priority * (other + theirs)) / (1 + priority)
        assert found.objective_s == pytest.approx(expected)
    nothing = tuple(replace(one, priority=0.0) for one in pair())
    found = evaluate(replace(PROBLEM, models=nothing, objective="weighted"), plan)
    assert found.objective_s == pytest.approx((alone + 0.5 + other + 1.0) / 2)


ONE = replace(MODEL, codecs=(Codec("int8", 0.25, 0.01),))


@pytest.mark.parametrize(
    ("change", "plan", "fault"),
    [
        ({}, (), "model 'm': has no stages"),
        ({}, (stage(0, 2, "a"),), "model 'm': the stages are not its blocks in order"),
        ({}, (stage(0, 2, "a"), stage(1, 3, "b")), "model 'm': the stages are not its blocks in order"),
        ({}, (stage(0, 2, "a"), stage(2, 3, "a")), "model 'm': a serves more than one of its stages"),
        ({}, (stage(0, 3, "x"),), "model 'm': stage 0: no node 'x'"),
        ({}, (stage(0, 3),), "model 'm': stage 0: has 0 nodes; 1 to 1 are allowed"),
        ({}, (stage(0, 3, "a", "b"),), "model 'm': stage 0: has 2 nodes; 1 to 1 are allowed"),
        (
            {},
            (stage(0, 1, "a", codec="int8"), stage(1, 3, "b")),
            "model 'm': stage 0: codec 'int8' may not be used there",
        ),
        (
            {},
            (stage(0, 1, "a"), stage(1, 3, "b", codec="int8")),
            "model 'm': stage 1: codec 'int8' may not be used there",
        ),
        (
            {"models": (replace(ONE, source="b"),)},
            (stage(0, 3, "a"),),
            "model 'm': stage 0: must be on b, the model's source",
        ),
        (
            {"nodes": (replace(NODES[0], excluded=True), *NODES[1:])},
            (stage(0, 3, "a"),),
            "model 'm': stage 0: a is excluded",
        ),
        (
            {"nodes": (*NODES[:2], replace(NODES[2], required=True))},
            (stage(0, 3, "a"),),
            "c is required and serves nothing",
        ),
        (
            {"models": (replace(ONE, required=("a", "c")),)},
            (stage(0, 3, "a"),),
            "model 'm': c is required and serves none of its stages",
        ),
        ({"nodes": (Node("a", 40), *NODES[1:])}, (stage(0, 3, "a"),), "a has 40 bytes and would need 41"),
        ({"nodes": (Node("a", 50, 10), *NODES[1:])}, (stage(0, 3, "a"),), "a has 50 bytes and would need 51"),
        ({"ingress": Port((0, 1, 1), (0, 0, 0))}, (stage(0, 3, "a"),), "model 'm': no link from the gateway to a"),
        ({"egress": Port((0, 1, 1), (0, 0, 0))}, (stage(0, 3, "a"),), "model 'm': no link from a to the gateway"),
        (
            {"links": Links(((0, 0, 1),) * 3, LINKS.latency_s)},
            (stage(0, 1, "a"), stage(1, 3, "b")),
            "model 'm': no link from a to b",
        ),
    ],
)
def test_faults(change: dict[str, object], plan: tuple[StageAssignment, ...], fault: str) -> None:
    found = evaluate(replace(PROBLEM, **{"models": (ONE,), **change}), {"m": plan})  # type: ignore[arg-type]
    assert fault in found.faults


def test_a_block_that_the_node_cannot_run_and_a_stranger() -> None:
    blocks = (replace(BLOCKS[0], seconds=(INF, 1.0, 1.0)), *BLOCKS[1:])
    found = evaluate(replace(PROBLEM, models=(replace(MODEL, blocks=blocks),)), {"m": (stage(0, 3, "a"),), "x": ()})
    assert set(found.faults) == {"model 'm': stage 0: a cannot run its blocks", "model 'x': not in the problem"}
    assert found.objective_s == INF


def test_a_link_that_is_missing_is_no_zero_seconds() -> None:
    model = replace(MODEL, cuts_bytes=(0, 0, 0, 0))
    problem = Problem(NODES, (model,), Links(((0, 0, 0),) * 3, LINKS.latency_s))
    assert evaluate(problem, STAGES).objective_s == INF


@pytest.mark.parametrize(
    ("memory", "running", "fits"),
    [
        (41, ((0, 3), "a"), True),  # the very same stage: nothing to load
        (30, ((0, 3), "b"), True),
        (36 + 14, ((0, 1), "a"), True),  # blocks 0 and 1 need 36, block 0's workspace 4 more, its weights are there
        (39, ((0, 1), "a"), False),
        (36 + 6, ((2, 3), "a"), True),
        (36 + 5, ((2, 3), "a"), False),
    ],
)
def test_the_new_plan_has_to_fit_beside_the_running_one(
    memory: int, running: tuple[tuple[int, int], str], fits: bool
) -> None:
    span, node = running
    plan = {"m": (stage(0, 3, "a"),)} if span == (0, 3) and node == "a" else {"m": (stage(0, 2, "a"), stage(2, 3, "c"))}
    nodes = (Node("a", memory), NODES[1], NODES[2])
    if node == "b":
        plan, nodes = {"m": (stage(0, 2, "c"), stage(2, 3, "a"))}, (Node("a", memory), NODES[1], NODES[2])
    found = evaluate(replace(PROBLEM, nodes=nodes, current={"m": (Running(span, (node,)),)}), plan)
    assert [fault.split(" beside ")[0] for fault in found.faults] == (
        [] if fits else [f"a has {memory} bytes and would need {40 if span == (0, 1) else 42}"]
    )
