"""Problems, answers read back, and nodes of equal speed that swap roles to spare a load."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from fleet import MB, FakeAgent, manifest

from stageline.errors import PlacementError
from stageline.plan import StageKey
from stageline_coordinator.bottleneck import bottleneck_s
from stageline_coordinator.figures import Figure, FigureBook, FigureKey
from stageline_coordinator.network import Link, LinkBook, Network
from stageline_coordinator.peers import Node
from stageline_coordinator.placement import (
    Placement,
    Slot,
    build_problem,
    read_answer,
    slot_bytes,
    stay_put,
)
from stageline_coordinator.planner import Problem, Shared, StageAssignment
from stageline_coordinator.planner.evaluate import evaluate

MODEL = manifest(blocks=4, weights=10 * MB)
MODELS = {"net": ("m", MODEL)}
FREE = Network()
PLACED = {"net": (Slot(0, 2, ("a",)), Slot(2, 4, ("b",)))}


def node(name: str, *loaded: tuple[int, int], **settings: Any) -> Node:
    stages = tuple(StageKey(manifest="m", start=s, end=e) for s, e in loaded)
    hello = FakeAgent(name, loaded=stages, **settings).hello()
    assert hello.node is not None
    return Node(hello, executors={one.executor: one for one in hello.node.executors})


def book(*fingerprints: str, seconds: float = 0.5) -> FigureBook:
    return FigureBook({FigureKey(b.graph, f): Figure(seconds) for b in MODEL.blocks for f in fingerprints})


def moved(*nodes: Node) -> list[str]:
    placed = stay_put(PLACED, MODELS, {one.name: one for one in nodes}, book("cpu"))
    return [slot.nodes[0] for slot in placed["net"]]


def test_equal_nodes_swap_roles_so_that_loaded_stages_stay() -> None:
    assert moved(node("a", (2, 4)), node("b", (0, 2))) == ["b", "a"]
    assert moved(node("a"), node("b"), node("c", (2, 4))) == ["a", "c"]


def test_nothing_moves_without_a_reason() -> None:
    assert moved(node("a"), node("b"), node("c")) == ["a", "b"]
    assert moved(node("a", (0, 2)), node("b", (2, 4)), node("c", (0, 2), (2, 4))) == ["a", "b"]


def test_a_node_of_other_speed_or_with_too_little_memory_takes_no_role() -> None:
    assert moved(node("a", (2, 4), fingerprint="gpu"), node("b", (0, 2))) == ["a", "b"]
    assert moved(node("a"), node("b"), node("c", (2, 4), memory=15 * MB)) == ["a", "b"]


def test_a_problem_is_one_that_the_planner_reads() -> None:
    document = build_problem([node("a"), node("b", fingerprint="gpu", memory=7)], MODELS, book("cpu"), Network())
    problem = Problem.from_json(document)
    assert [n.memory_bytes for n in problem.nodes] == [100 * MB, 7]
    assert problem.models[0].blocks[0].seconds == (0.5, float("inf"))
    assert problem.models[0].blocks[0].weight_bytes == 10 * MB


def test_an_answer_must_cover_every_block_in_order() -> None:
    good = [{"blocks": [0, 3], "nodes": ["a"]}, {"blocks": [3, 4], "nodes": ["b"]}]
    assert read_answer({"stages": {"net": good}}, None, MODELS).placement["net"][1] == Slot(3, 4, ("b",))
    odd: list[Any] = [[good[0]], [good[1], good[0]], [{"blocks": [0, 4], "nodes": []}], [{"blocks": [0]}], "x"]
    for bad in odd:
        with pytest.raises(PlacementError):
            read_answer({"stages": {"net": bad}}, None, MODELS)


def test_a_hop_is_coded_where_the_model_tolerates_it_and_the_plan_says_so() -> None:
    model = Problem.from_json(build_problem([node("a")], MODELS, book("cpu"), Network())).models[0]
    assert model.tolerance == MODEL.tolerance.rtol and model.allowed_codecs() == ()
    assert [codec.name for codec in replace(model, tolerance=1e-3).allowed_codecs()] == ["fp16"]
    assert [codec.name for codec in replace(model, tolerance=1e-2).allowed_codecs()] == ["fp16", "int8"]
    stages = [{"blocks": [0, 3], "nodes": ["a"], "codec": "none"}, {"blocks": [3, 4], "nodes": ["b"], "codec": "int8"}]
    assert [slot.codec for slot in read_answer({"stages": {"net": stages}}, None, MODELS).placement["net"]] == [
        "",
        "int8",
    ]
    stages[1]["codec"] = "zip"
    with pytest.raises(PlacementError, match="malformed"):
        read_answer({"stages": {"net": stages}}, None, MODELS)


def reached(placed: Placement, nodes: Sequence[Node], network: Network = FREE) -> float:
    return bottleneck_s(build_problem(nodes, MODELS, book("cpu"), network), placed)


def test_the_busiest_node_counts_all_models_and_replicas_share() -> None:
    nodes = [node(name) for name in "ab"]
    assert reached(PLACED, nodes) == 1.0
    assert reached({"net": (Slot(0, 4, ("a",)),)}, nodes) == 2.0
    assert reached({"net": (Slot(0, 4, ("a", "b")),)}, nodes) == 1.0
    assert reached(PLACED, nodes[:1]) == float("inf")
    assert reached(PLACED, [nodes[0], node("b", fingerprint="gpu")]) == float("inf")
    nodes[1].slowdown = 3.0
    assert reached(PLACED, nodes) == 3.0
    assert reached({"net": (Slot(0, 4, ("a", "b")),)}, nodes) == 1.5


def test_links_and_ports_count_with_codecs() -> None:
    nodes = [node(name) for name in "ab"]
    slow = LinkBook({("agent:a", "agent:b"): Link(100.0, 0.25), ("agent:b", "agent:a"): Link(1e9, 0.0)})
    network = slow.view([one.identity for one in nodes], [])
    assert reached(PLACED, nodes, network) == 4.0
    coded = {"net": (PLACED["net"][0], replace(PLACED["net"][1], codec="fp16"))}
    assert reached(coded, nodes, network) == 2.0
    assert reached({"net": (Slot(0, 4, ("a",)),)}, nodes, network) == 2.0
    problem = Problem.from_json(build_problem(nodes, MODELS, book("cpu"), network))
    assert problem.links is not None and problem.links.latency_s == ((0.0, 0.25), (0.0, 0.0))
    assert problem.links.bandwidth_bytes_per_s[0] == (float("inf"), 100.0) and problem.ingress is None
    ports = LinkBook({("gateway:g", "agent:a"): Link(40.0, 0.1), ("agent:b", "gateway:g"): Link(0.0, 0.0)})
    barred = ports.view([one.identity for one in nodes], ["gateway:g"])
    assert reached(PLACED, nodes, barred) == float("inf")


def test_what_workers_say_of_messages_and_upkeep_reaches_the_problem() -> None:
    a, b = node("a"), node("b")
    assert b.hello.node is not None
    info = msgspec.structs.replace(b.hello.node, hop_s=0.0104, byte_s=2e-4)
    b.hello = msgspec.structs.replace(b.hello, node=info)
    b.keep_up(0.2)
    first, second = Problem.from_json(build_problem([a, b], MODELS, book("cpu"), FREE)).nodes
    assert (first.hop_s, first.byte_s) == (0.0, 0.0)
    assert (second.hop_s, second.byte_s) == (0.013, 2.5e-4)
    assert reached({"net": (Slot(0, 4, ("a",)),)}, [a, b]) == 2.0
    assert reached({"net": (Slot(0, 4, ("b",)),)}, [a, b]) == pytest.approx(2.0 / 0.8 + 2 * 0.013 + 2.5e-4 * 800)


@pytest.mark.parametrize(("said", "taken"), [(0.013, 0.0), (0.1, 0.1), (float("nan"), 0.0), (-1.0, 0.0), (7.0, 0.9)])
def test_upkeep_that_is_noise_or_nonsense_changes_little(said: float, taken: float) -> None:
    one = node("a")
    one.keep_up(said)
    assert one.upkeep == taken


@pytest.mark.parametrize("said", [float("nan"), -1.0, 1e-30, float("inf")])
def test_nonsense_about_messages_is_left_out(said: float) -> None:
    one = node("a")
    assert one.hello.node is not None
    one.hello = msgspec.structs.replace(
        one.hello, node=msgspec.structs.replace(one.hello.node, hop_s=said, byte_s=said)
    )
    (box,) = Problem.from_json(build_problem([one], MODELS, book("cpu"), FREE)).nodes
    assert (box.hop_s, box.byte_s) == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_it_says_what_the_planners_evaluation_says(seed: int) -> None:
    draw = random.Random(seed)
    nodes = [node(name) for name in "abcd"]
    for one in nodes:
        one.slowdown = draw.uniform(0.5, 3)
        one.keep_up(draw.uniform(0, 0.5))
        assert one.hello.node is not None
        costs = {"hop_s": draw.uniform(0, 0.1), "byte_s": draw.uniform(0, 1e-3)}
        one.hello = msgspec.structs.replace(one.hello, node=msgspec.structs.replace(one.hello.node, **costs))
    who = {name: f"agent:{name}" for name in "abcd"} | {"g": "gateway:g"}
    links = {(a, b): Link(draw.uniform(100, 2000), 0.01) for a in who.values() for b in who.values() if a != b}
    network = LinkBook(links).view([who[name] for name in "abcd"], ["gateway:g"])
    problem = build_problem(nodes, MODELS, book("cpu"), network)
    cut, names = draw.randint(1, 3), draw.sample("abcd", 3)
    placed = {"net": (Slot(0, cut, (names[0],)), Slot(cut, 4, tuple(names[1:])))}
    stages = {"net": [StageAssignment((slot.start, slot.end), slot.nodes) for slot in placed["net"]]}
    assert bottleneck_s(problem, placed) == pytest.approx(evaluate(Problem.from_json(problem), stages).bottleneck_s)


def test_shared_tensors_weigh_once() -> None:
    assert MODEL.weight_bytes_of(1, 3) == 20 * MB
    first, *middle, last = MODEL.blocks
    tied = replace(MODEL, blocks=(first, *middle, replace(last, tensors=(*last.tensors, *first.tensors))))
    (model,) = Problem.from_json(build_problem([node("a")], {"net": ("m", tied)}, book("cpu"), FREE)).models
    assert model.blocks[3].weight_bytes == 20 * MB and model.shared == (Shared((0, 3), 10 * MB),)
    for start, end in ((0, 4), (0, 2), (1, 4)):
        assert model.weight_bytes(range(start, end)) == tied.weight_bytes_of(start, end)
        assert model.stage_bytes(start, end) == slot_bytes(tied, Slot(start, end, ("a",)), book("cpu"))
