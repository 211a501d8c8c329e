"""Which blocks are measured when: one item first, larger batches later, little beside live traffic."""

from __future__ import annotations

import math

import pytest
from fleet import MB, FakeAgent, manifest

from stageline.messages import BlockTime, Profiled, ProfileRequest, Progress
from stageline_coordinator.figures import Figure, FigureBook, FigureKey, Models
from stageline_coordinator.peers import QUIET_S, Node
from stageline_coordinator.profiling import ANSWER_S, BUSY_SHARE, MAX_ATTEMPTS, ProfileBook

MODEL = manifest(blocks=6)
MODELS: Models = {"net": ("m", MODEL)}


def node(name: str = "a", busy: bool = False, **settings: int) -> Node:
    made = Node(FakeAgent(name, **settings).hello())
    made.worked_at = math.inf if busy else -math.inf
    return made


class Bench:
    """Nodes that answer each request after a second; `asked` is what they were asked for, in order."""

    def __init__(self, *nodes: Node, models: Models = MODELS) -> None:
        self.book, self.nodes, self.models = ProfileBook({}), nodes, models
        self.asked: list[tuple[float, str, ProfileRequest]] = []

    def run(self, seconds: int) -> list[tuple[float, str, ProfileRequest]]:
        for now in range(seconds):
            for node, request in self.book.requests(self.nodes, self.models, float(now)):
                self.asked.append((float(now), node.name, request))
                answer = FakeAgent(node.name).answer(request, {})
                assert isinstance(answer, Profiled)
                self.book.profiled(node, answer, self.models, float(now))
        return self.asked


def test_one_item_comes_first_then_four_then_two_and_eight() -> None:
    bench = Bench(node())
    sizes = [request.batches for _, _, request in bench.run(100)]
    assert list(dict.fromkeys(sizes)) == [(1,), (4,), (2, 8)]
    assert bench.book.coverage(MODELS, "cpu").batches == (1, 2, 4, 8)
    assert bench.book.coverage(MODELS, "cpu").error == 0.02


def test_another_models_first_figures_come_before_larger_batches() -> None:
    bench = Bench(node(), models={"net": ("m", MODEL), "other": ("o", manifest("other", blocks=3))})
    bench.run(100)
    order = [(request.manifest, request.batches) for _, _, request in bench.asked]
    assert list(dict.fromkeys(order))[:3] == [("m", (1,)), ("o", (1,)), ("m", (4,))]


def test_a_model_of_fixed_batch_is_measured_at_that_only() -> None:
    fixed = manifest("fixed", blocks=2)
    fixed.dims.clear()
    bench = Bench(node(), models={"fixed": ("f", fixed)})
    assert [request.batches for _, _, request in bench.run(20)] == [(1,)]


def test_beside_live_traffic_measuring_takes_little_time_and_no_background_runs() -> None:
    bench = Bench(node(busy=True))
    asked = bench.run(2000)
    assert all(len(request.blocks) == 1 for _, _, request in asked)
    assert {request.batches for _, _, request in asked} == {(1,), (4,)}
    spent = sum(6 * 0.01 * request.batches[0] for _, _, request in asked)
    rested = asked[-1][0]
    assert spent / rested <= BUSY_SHARE * 1.2
    assert bench.book.complete(MODEL, "cpu") and bench.book.complete(MODEL, "cpu", 4)


def test_of_equal_nodes_one_without_traffic_is_asked() -> None:
    bench = Bench(node("a", busy=True), node("b"))
    assert {name for _, name, _ in bench.run(100)} == {"b"}


def test_a_node_is_quiet_when_it_has_computed_nothing_lately() -> None:
    made = node()
    assert made.quiet(0.0)
    made.report((Progress(executor="x", items_done=5),), 1.0)
    made.report((Progress(executor="x", items_done=5),), 2.0)
    assert not made.quiet(1.0 + QUIET_S / 2) and made.quiet(1.0 + QUIET_S)
    made.report((Progress(executor="x", items_done=5, queue_depth=1),), 9.0)
    assert not made.quiet(9.0)


def test_batches_that_would_not_fit_are_not_measured() -> None:
    assert MODEL.blocks[0].workspace_bytes == 1000
    room = MB + MODEL.blocks[0].weight_bytes + 4000
    bench = Bench(node(memory=room))
    assert [request.batches for _, _, request in bench.run(20)] == [(1,), (1,), (4,), (4,)]


def test_a_batch_that_cannot_be_measured_keeps_its_smaller_ones() -> None:
    made, book = node(), ProfileBook({})
    graph = MODEL.blocks[0].graph
    for now in range(0, 10_000, 10):
        for _, request in book.requests([made], MODELS, float(now)):
            small = tuple(size for size in request.batches if size < 8)
            answer = FakeAgent("a").answer(ProfileRequest("m", request.blocks, small), {})
            assert isinstance(answer, Profiled)
            book.profiled(made, answer, MODELS, float(now))
    figures = {key.batch: figure.seconds for key, figure in book.figures.items() if key.graph == graph}
    assert figures == {1: 0.01, 2: 0.02, 4: 0.04, 8: math.inf}
    assert book.seconds_at(graph, "cpu", 5) is None


def test_silence_is_a_failure_unless_traffic_kept_the_node_from_measuring() -> None:
    for made, failures in ((node(), 1), (node(busy=True), 0)):
        book = ProfileBook({})
        book.requests([made], MODELS, 0.0)
        book.requests([made], MODELS, ANSWER_S)
        assert len(book.errors) == failures
    assert MAX_ATTEMPTS > 1


def test_times_between_measured_sizes_are_interpolated() -> None:
    known = {
        FigureKey("g", "f", 1): Figure(1.0),
        FigureKey("g", "f", 4): Figure(2.5),
        FigureKey("g", "f", 8): Figure(math.inf),
    }
    book = FigureBook(known)
    assert [book.seconds_at("g", "f", n) for n in (1, 2, 3, 4)] == [1.0, 1.5, 2.0, 2.5]
    assert book.seconds_at("g", "f", 5) is None and book.seconds_at("g", "other", 1) is None


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, 0),
        ({("f", 1): 10}, 80),
        ({("f", 1): 10, ("f", 4): 30}, 60),
        ({("f", 1): 10, ("f", 8): 50, ("f", 16): 99}, 99),
        ({("f", 1): 10, ("e", 1): 11}, 88),
    ],
)
def test_the_workspace_of_a_full_batch_is_that_of_the_largest_measured_scaled(
    figures: dict[tuple[str, int], int], expected: int
) -> None:
    book = FigureBook({FigureKey("g", f, batch): Figure(1.0, nbytes) for (f, batch), nbytes in figures.items()})
    assert book.workspace("g", 8) == expected


def test_what_is_done_between_runs_counts_too_beside_live_traffic() -> None:
    book, made = ProfileBook({}), node(busy=True)
    ((_, request),) = book.requests([made], MODELS, 0.0)
    time = BlockTime(block=request.blocks[0], batch=1, seconds=0.001, runs=5, spent_s=0.3)
    book.profiled(made, Profiled(manifest=request.manifest, fingerprint="cpu", times=(time,)), MODELS, 1.0)
    assert not book.requests([made], MODELS, 0.95 + 0.3 / BUSY_SHARE)
    assert book.requests([made], MODELS, 1.05 + 0.3 / BUSY_SHARE)
