"""Nodes that leave their profile: only by much, for long and over many batches; and back again."""

from __future__ import annotations

from collections.abc import Iterable

from fleet import FakeAgent, manifest

from stageline.messages import StageTime
from stageline.plan import StageKey
from stageline_coordinator.drift import FEWEST, FORGET_S, PATIENCE_S, Drift
from stageline_coordinator.figures import Figure, FigureBook, FigureKey
from stageline_coordinator.peers import Node

MODEL = manifest(blocks=2)
MODELS = {"net": ("m", MODEL)}
BOOK = FigureBook({FigureKey(b.graph, "cpu", batch): Figure(0.01 * batch) for b in MODEL.blocks for batch in (1, 4)})
STAGE = StageKey(manifest="m", start=0, end=2)


class Watch:
    """A node that one gateway reports on once a second."""

    def __init__(self) -> None:
        self.node = Node(FakeAgent("a").hello())
        self.drift = Drift()
        self.now = 0.0

    def serve(self, seconds: int, ratio: float, rows: int = 1, batches: int = 20) -> list[str]:
        found: list[str] = []
        for _ in range(seconds):
            self.now += 1.0
            live = 0.02 * rows * ratio * batches
            time = StageTime(node="a", stage=STAGE, rows=rows, batches=batches, seconds=live)
            found += self.tell([time])
        return found

    def tell(self, times: Iterable[StageTime]) -> list[str]:
        notes = self.drift.observe(self.node, list(times), MODELS, BOOK, self.now)
        return [note.event for note in notes]


def test_a_node_that_becomes_slower_is_noticed_once_and_its_times_corrected() -> None:
    watch = Watch()
    assert watch.serve(20, 1.0) == [] and watch.node.slowdown == 1.0
    assert watch.serve(60, 2.0) == ["node drifted"]
    assert 1.9 < watch.node.slowdown <= 2.01
    assert watch.node.degraded and watch.node.view().degraded


def test_one_that_recovers_is_noticed_too() -> None:
    watch = Watch()
    watch.serve(60, 3.0)
    assert watch.serve(60, 1.0) == ["node drifted"]
    assert 0.99 < watch.node.slowdown < 1.2
    assert not watch.node.degraded


def test_small_differences_and_short_ones_are_noise() -> None:
    watch = Watch()
    assert watch.serve(300, 1.09) == [] and watch.node.slowdown == 1.0
    assert 1.08 < watch.node.drift < 1.1
    for _ in range(20):
        assert watch.serve(round(PATIENCE_S) - 2, 2.0) == []
        assert watch.serve(20, 1.0) == []


def test_what_is_more_than_noise_is_refined_and_told_apart_from_drift() -> None:
    watch = Watch()
    assert watch.serve(60, 1.3) == ["node refined"]
    assert 1.2 < watch.node.slowdown < 1.31


def test_refining_to_and_fro_comes_to_rest() -> None:
    watch = Watch()
    turns = [len(watch.serve(60, ratio)) for ratio in (1.2, 1.0) * 20]
    assert 1 <= sum(turns[:10]) <= 6 and sum(turns[20:]) == 0
    assert watch.serve(14, 3.0) == ["node drifted"], "what is large is noticed as soon as ever"


def test_a_few_batches_are_no_evidence() -> None:
    watch = Watch()
    assert watch.serve(FEWEST - 1, 5.0, batches=1) == []
    assert watch.serve(5, 5.0, batches=1) == ["node drifted"]


def test_batch_sizes_are_compared_with_what_they_should_take_and_larger_ones_not_at_all() -> None:
    watch = Watch()
    assert watch.serve(30, 1.0, rows=3) == [] and abs(watch.node.drift - 1) < 1e-9
    assert watch.serve(30, 9.0, rows=5) == [] and abs(watch.node.drift - 1) < 1e-9


def test_nonsense_and_unknown_stages_are_ignored() -> None:
    watch = Watch()
    other = StageKey(manifest="x", start=0, end=2)
    times = [
        StageTime(node="a", stage=other, rows=1, batches=5, seconds=1.0),
        StageTime(node="a", stage=STAGE, rows=1, batches=0, seconds=1.0),
        StageTime(node="a", stage=STAGE, rows=1, batches=5, seconds=float("nan")),
        StageTime(node="a", stage=StageKey(manifest="m", start=9, end=12), rows=1, batches=5, seconds=1.0),
    ]
    assert watch.tell(times) == [] and watch.node.drift == 1.0


def test_a_node_without_traffic_gets_its_chance_again_after_a_while() -> None:
    watch = Watch()
    watch.serve(60, 2.0)
    assert list(watch.drift.forget(watch.now + FORGET_S - 1)) == []
    (note,) = watch.drift.forget(watch.now + FORGET_S)
    assert note.event == "drift forgotten" and watch.node.slowdown == 1.0


def test_a_restarted_node_begins_anew() -> None:
    watch = Watch()
    watch.serve(60, 4.0)
    watch.node = Node(FakeAgent("a", incarnation="again").hello())
    assert watch.serve(60, 1.0) == [] and watch.node.slowdown == 1.0


def test_when_one_node_has_drifted_all_are_compared_as_they_are_now() -> None:
    drift, nodes, found = Drift(), [Node(FakeAgent(name).hello()) for name in "abc"], list[str]()
    for now in range(40):
        for node, ratio, batches in zip(nodes, (2.0, 1.4, 1.4), (20, 20, 0), strict=True):
            time = StageTime(node=node.name, stage=STAGE, rows=1, batches=batches, seconds=0.02 * ratio * batches)
            found += [str(note.fields["node"]) for note in drift.observe(node, [time], MODELS, BOOK, float(now))]
    assert found == ["a"]
    assert [round(node.slowdown, 2) for node in nodes] == [2.0, 1.4, 1.0]
