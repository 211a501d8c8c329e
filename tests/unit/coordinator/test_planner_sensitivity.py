"""What limits a plan, and what changes of one part gain: against plans that can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from stageline_coordinator.planner import Problem, changes, solve
from stageline_coordinator.planner.loads import indivisible, loads, reason
from stageline_coordinator.planner.sensitivity import at_rest, best, candidates, gain, helps, judged, relative
from stageline_coordinator.planner.solution import StageAssignment

MB = 1_000_000


def document(
    seconds: Sequence[Sequence[float | None]], memory: Sequence[int] = (), cuts: Sequence[int] = (), **more: Any
) -> dict[str, Any]:
    """`seconds[block][node]`; every block weighs 10 MB."""
    nodes, blocks = len(seconds[0]), len(seconds)
    names = [f"n{i}" for i in range(nodes)]
    return {
        "version": 1,
        "nodes": [{"id": n, "memory_bytes": m} for n, m in zip(names, memory or [1000 * MB] * nodes, strict=True)],
        "models": [
            {
                "name": "net",
                "blocks": [
                    {"name": f"b{i}", "weight_bytes": 10 * MB, "workspace_bytes": 0, "seconds": list(row)}
                    for i, row in enumerate(seconds)
                ],
                "cuts_bytes": list(cuts or [0] * (blocks + 1)),
            }
        ],
        **more,
    }


def uniform(nodes: int, rate: float) -> dict[str, Any]:
    return {"bandwidth_bytes_per_s": [[rate] * nodes] * nodes, "latency_s": [[0.0] * nodes] * nodes}


def plan(*stages: tuple[int, int, str]) -> dict[str, list[StageAssignment]]:
    return {"net": [StageAssignment((start, end), (node,)) for start, end, node in stages]}


def gains(problem: Problem) -> dict[tuple[str, ...], float | None]:
    """What every change gains, by its kind and names."""
    before = best(problem, solve)
    general = [gain(problem, before, change, solve) for change in changes.everything(problem)]
    useless = {one.change.kind for one in general if not helps(one, before)}
    found = [*general, *(gain(problem, before, one, solve) for one in candidates(problem, before, useless))]
    return {(one.change.kind, *one.change.names): one.gain for one in found if helps(one, before) or one.gain}


def test_the_busiest_comes_first_and_says_why() -> None:
    problem = Problem.from_json(document([[1.0, 1.0], [2.0, 2.0]], cuts=[0, 30 * MB, 0], links=uniform(2, 10 * MB)))
    stages = plan((0, 1, "n0"), (1, 2, "n1"))
    found = judged(problem, stages, "")
    assert [(str(load), load.seconds) for load in loads(found.found.busy)] == [
        ("link n0 → n1", 3.0), ("node n1", 2.0), ("node n0", 1.0),
    ]  # fmt: skip
    assert found.bottleneck is not None
    assert reason(found.bottleneck, problem, stages, found.found) == (
        "it carries the cut before block 1 of net (30 MB)"
    )


def test_a_node_says_what_it_runs_and_what_sending_costs() -> None:
    made = document([[1.0, 1.0], [2.0, 2.0]])
    made["nodes"][1]["hop_s"] = 0.25
    problem = Problem.from_json(made)
    stages = plan((0, 1, "n0"), (1, 2, "n1"))
    found = judged(problem, stages, "")
    load = loads(found.found.busy)[0]
    assert load.seconds == 2.5
    assert reason(load, problem, stages, found.found) == (
        "it runs blocks 1-2 of net, of which 500 ms are for sending and receiving"
    )
    assert indivisible(load, problem, stages) == "b1"
    whole = plan((0, 2, "n0"))
    load = loads(judged(problem, whole, "").found.busy)[0]
    assert indivisible(load, problem, whole) == ""


def test_ports_media_and_shares_are_named() -> None:
    port = {"bandwidth_bytes_per_s": [MB, MB], "latency_s": [0, 0]}
    media = [{"name": "wifi", "nodes": ["n0", "n1"], "bandwidth_bytes_per_s": MB}]
    made = document([[1.0, 1.0]] * 2, cuts=[5 * MB, 4 * MB, 7 * MB], ingress=port, egress=port, media=media)
    problem = Problem.from_json(made)
    stages = plan((0, 1, "n0"), (1, 2, "n1"))
    found = judged(problem, stages, "")
    sentences = {str(load): reason(load, problem, stages, found.found) for load in loads(found.found.busy)}
    assert list(sentences) == ["egress of n1", "ingress of n0", "medium wifi", "node n0", "node n1"]
    assert sentences["egress of n1"] == "it carries the output of net (7 MB)"
    assert sentences["ingress of n0"] == "it carries the input of net (5 MB)"
    assert sentences["medium wifi"].endswith("takes its turn: it carries the cut before block 1 of net (4 MB)")
    replicated = {"net": [StageAssignment((0, 2), ("n0", "n1"))]}
    found = judged(problem, replicated, "")
    node = next(load for load in loads(found.found.busy) if load.kind == "node")
    assert reason(node, problem, replicated, found.found) == "it runs blocks 0-2 of net (50 % of the requests)"


def test_compute_bound_only_nodes_help() -> None:
    """Two equal nodes, one second each: the bottleneck halves only where both are faster."""
    found = gains(Problem.from_json(document([[1.0, 1.0]] * 2)))
    assert found[("faster",)] == pytest.approx(1.0)
    assert found[("dropped", "n0")] == pytest.approx(-0.5)
    assert not {kind for kind, *_ in found} & {"network", "wire", "memory", "gateway"}
    assert ("dropped", "n1") not in found, "n0 stands for both"
    assert ("added", "n0") not in found, "two blocks cannot use three nodes"


def test_one_more_node_and_a_faster_one() -> None:
    """Four blocks: three on the fast node (3 s), one on the slow one (2 s)."""
    found = gains(Problem.from_json(document([[1.0, 2.0]] * 4)))
    assert found[("faster", "n0")] == pytest.approx(0.5)
    assert found[("faster", "n1")] == pytest.approx(0.5)
    assert found[("added", "n0")] == pytest.approx(0.5)
    assert found[("dropped", "n0")] == pytest.approx(3 / 8 - 1)
    assert found[("dropped", "n1")] == pytest.approx(3 / 4 - 1)


def test_a_slow_link_is_found_to_be_what_limits() -> None:
    """Either block takes a second, the cut between them three: only the link, and both ends' network, help."""
    slow = document([[1.0, 1.0]] * 2, memory=[15 * MB] * 2, cuts=[0, 30 * MB, 0], links=uniform(2, 10 * MB))
    found = gains(Problem.from_json(slow))
    assert found[("network",)] == pytest.approx(1.0)
    assert found[("wire", "n0", "n1")] == pytest.approx(1.0)
    assert found[("network", "n0")] == pytest.approx(1.0)
    assert not {("faster",), ("faster", "n0")} & found.keys()
    assert found[("memory", "n0")] == pytest.approx(0.5), "both blocks on one node need no link"


def test_memory_that_would_help_says_how_much() -> None:
    """The fast node holds one block of four."""
    problem = Problem.from_json(document([[0.1, 1.0]] * 4, memory=[15 * MB, 1000 * MB]))
    before = best(problem, solve)
    assert before.found.objective_s == pytest.approx(3.0)
    found = [gain(problem, before, one, solve) for one in candidates(problem, before, ())]
    memory = next(one for one in found if one.change.kind == changes.MEMORY and helps(one, before))
    assert memory.change.names == ("n0",)
    assert memory.gain == pytest.approx(2.0), "three blocks of four fit, one second is left"
    assert memory.needs_bytes == 15 * MB


def test_a_problem_without_a_plan_is_told_what_would_give_one() -> None:
    problem = Problem.from_json(document([[1.0]] * 3, memory=[20 * MB]))
    before = best(problem, solve)
    assert not before.solved
    assert before.bottleneck is None
    found = [gain(problem, before, one, solve) for one in candidates(problem, before, ())]
    useful = [one for one in found if helps(one, before)]
    assert {one.change.kind for one in useful} == {changes.MEMORY, changes.ADDED}
    assert all(one.gain is None for one in useful)
    assert next(one for one in useful if one.change.kind == changes.MEMORY).needs_bytes == 10 * MB


def test_nodes_are_alike_only_if_exchanging_them_changes_nothing() -> None:
    rates = [[0.0, 1.0, 1.0, 2.0], [1.0, 0.0, 1.0, 2.0], [1.0, 1.0, 0.0, 3.0], [2.0, 2.0, 3.0, 0.0]]
    links = {"bandwidth_bytes_per_s": rates, "latency_s": [[0.0] * 4] * 4}
    made = document([[1.0] * 4], links=links)
    assert changes.classes(Problem.from_json(made)) == ((0, 1), (2,), (3,))
    made["nodes"][1]["memory_bytes"] = 1
    assert changes.classes(Problem.from_json(made)) == ((0,), (1,), (2,), (3,))
    del made["links"]
    assert changes.classes(Problem.from_json(made)) == ((0, 2, 3), (1,))
    made["models"][0]["source"] = "n2"
    assert changes.classes(Problem.from_json(made)) == ((0, 3), (1,), (2,))
    made["media"] = [{"name": "wifi", "nodes": ["n0"], "bandwidth_bytes_per_s": 1}]
    assert changes.classes(Problem.from_json(made)) == ((0,), (1,), (2,), (3,))


def test_changes_change_what_they_say_and_nothing_else() -> None:
    port = {"bandwidth_bytes_per_s": [1.0, 2.0, 3.0], "latency_s": [0.1, 0.2, 0.3]}
    rates = [[0.0, 1.0, 2.0], [3.0, 0.0, 4.0], [5.0, 6.0, 0.0]]
    media = [{"name": "wifi", "nodes": ["n0", "n2"], "bandwidth_bytes_per_s": 7.0}]
    links = {"bandwidth_bytes_per_s": rates, "latency_s": [[0.5] * 3] * 3}
    problem = Problem.from_json(document([[1.0, 2.0, None]], links=links, ingress=port, media=media))

    def bandwidth(change: changes.Change) -> Any:
        assert change.problem.links is not None
        return change.problem.links.bandwidth_bytes_per_s

    assert bandwidth(changes.wire(problem, "n0", "n2")) == ((0.0, 1.0, 4.0), (3.0, 0.0, 4.0), (10.0, 6.0, 0.0))
    assert bandwidth(changes.network(problem, [1])) == ((0.0, 2.0, 2.0), (6.0, 0.0, 8.0), (5.0, 12.0, 0.0))
    own = changes.network(problem, [1]).problem
    assert own.ingress is not None
    assert own.ingress.bandwidth_bytes_per_s == (1.0, 4.0, 3.0)
    way = changes.gateway(problem).problem
    assert (way.links, way.egress) == (problem.links, None)
    assert way.ingress is not None
    assert way.ingress.bandwidth_bytes_per_s == (2.0, 4.0, 6.0)
    assert changes.medium(problem, "wifi").problem.media[0].bandwidth_bytes_per_s == 14.0
    assert changes.faster(problem, [1]).problem.models[0].blocks[0].seconds == (1.0, 1.0, math.inf)
    gone = changes.dropped(problem, [1])
    assert [node.excluded for node in gone.problem.nodes] == [False, True, False]
    assert not gone.relaxes

    grown = changes.added(problem, 0)
    assert grown.problem.nodes[3].memory_bytes == 1000 * MB
    assert grown.problem.models[0].blocks[0].seconds == (1.0, 2.0, math.inf, 1.0)
    assert bandwidth(grown) == ((0.0, 1.0, 2.0, 1.5), (3.0, 0.0, 4.0, 3.0), (5.0, 6.0, 0.0, 5.0), (1.5, 1.0, 2.0, 0.0))
    assert grown.problem.ingress is not None
    assert grown.problem.ingress.bandwidth_bytes_per_s == (1.0, 2.0, 3.0, 1.0)
    assert grown.problem.media[0].nodes == ("n0", "n2", "new-0")


def test_a_relaxing_change_keeps_the_old_plan_where_the_solver_finds_none_as_good() -> None:
    problem = Problem.from_json(document([[1.0, 1.0]] * 2))
    before = best(problem, solve)
    found = gain(problem, before, changes.faster(problem, [0]), lambda changed: solve(Problem.from_json(
        document([[1.0, 1.0]] * 2, memory=[0, 0])
    )))  # fmt: skip
    assert found.gain == 0.0
    assert found.outcome.solved


def test_the_running_plan_does_not_count() -> None:
    made = document([[1.0, 1.0]] * 2, current={"net": [{"blocks": [0, 2], "nodes": ["n0"]}]})
    assert at_rest(Problem.from_json(made)) == Problem.from_json(document([[1.0, 1.0]] * 2))


def test_gains_of_a_delay_are_parts_saved() -> None:
    throughput = Problem.from_json(document([[1.0]]))
    latency = Problem.from_json(document([[1.0]], objective="latency"))
    assert (relative(throughput, 2.0, 1.0), relative(latency, 2.0, 1.0)) == (1.0, 0.5)
    assert (relative(throughput, 0.0, 0.0), relative(latency, 0.0, 0.0)) == (0.0, 0.0)
