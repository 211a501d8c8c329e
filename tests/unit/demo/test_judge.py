"""The demo's judge and figures: it must notice every kind of wrong answer."""

from __future__ import annotations

import numpy as np
import pytest

from stageline.client import InferResult
from stageline.demo.fault import Fault, middle_stage, recovery
from stageline.demo.judge import Judge
from stageline.demo.load import Sample
from stageline.demo.report import accuracy, percentile, tally, throughput, utilisation
from stageline.errors import PlacementError
from stageline.plan import Endpoint, ModelPlan, PlanStage, Replica, Signature
from stageline.protocol import StageTiming, Timings

REFERENCE = np.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]], dtype=np.float32)


@pytest.fixture
def judge() -> Judge:
    return Judge(REFERENCE, rtol=1e-3, atol=1e-3)


def answer(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def test_alone_only_bit_equal_is_right(judge: Judge) -> None:
    assert judge(0, answer(1.0, 0.0), 1).right
    nudged = np.nextafter(REFERENCE[:1], np.float32(2.0))
    assert not judge(0, nudged, 1).right
    assert judge(0, nudged, 2).right


def test_in_a_batch_the_tolerance_counts(judge: Judge) -> None:
    assert judge(0, answer(1.0015, 0.0), 2).right
    assert not judge(0, answer(1.0025, 0.0), 2).right


@pytest.mark.parametrize(
    "wrong", [answer(0.0, 1.0), answer(5.0, 5.0), answer(np.nan, 0.0), answer(1.0), answer(1.0, 0.0).astype(np.float64)]
)
def test_another_requests_answer_or_another_shape_is_wrong(judge: Judge, wrong: np.ndarray) -> None:
    for batch in (1, 4):
        assert not judge(0, wrong, batch).right


def test_an_answer_nearer_to_another_request_is_not_its_own() -> None:
    loose = Judge(REFERENCE, rtol=0.0, atol=100.0)
    verdict = loose(0, answer(0.1, 0.9), 2)
    assert verdict.excess <= 1 and not verdict.own and not verdict.right


def test_minus_zero_is_not_bit_equal_to_zero(judge: Judge) -> None:
    assert not judge(0, answer(1.0, -0.0), 1).exact


def test_separation_is_that_of_the_nearest_pair(judge: Judge) -> None:
    assert judge.separation() == pytest.approx(1000, rel=0.01)


def sample(index: int, values: np.ndarray | None, *, batch: int = 1, attempts: int = 1, sent: float = 0.0,
           done: float = 1.0, stages: int = 0) -> Sample:  # fmt: skip
    if values is None:
        return Sample(index, sent, done, error="lost")
    timings = Timings(stages=tuple(StageTiming(0, 250_000) for _ in range(stages)))
    return Sample(index, sent, done, InferResult({"logits": values}, batch, attempts, timings, 1))


def test_the_tally_counts_lost_and_wrong(judge: Judge) -> None:
    samples = [
        sample(0, answer(1.0, 0.0)),
        sample(1, answer(1.0, 0.0), attempts=2),
        sample(2, answer(5.001, 5.0), batch=2),
        sample(0, None),
    ]
    total = tally(5, samples, judge)
    assert (total.requests, total.answered, total.wrong, total.lost, total.retried) == (5, 3, 1, 2, 1)
    assert (total.bit_equal, total.alone, total.batched) == (1, 2, 1)


def test_figures() -> None:
    samples = [sample(i, answer(1.0, 0.0), sent=float(i), done=i + 1.0, stages=2) for i in range(4)]
    assert throughput(samples) == 1.0
    assert utilisation(samples) == [0.25, 0.25]
    assert accuracy(samples, [0, 1, 0, 0]) == 0.75
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(i) for i in range(1, 101)], 99) == 99.0
    assert percentile([], 99) == 0.0


def model(*nodes: str) -> ModelPlan:
    stages = tuple(PlanStage(i, i + 1, (Replica(n, "e", Endpoint("tcp://a:1")),)) for i, n in enumerate(nodes))
    return ModelPlan("resnet50", "ab", Signature((), ()), "serving", stages=stages)


def test_the_middle_stage_is_neither_first_nor_last() -> None:
    assert middle_stage(model("a", "b", "c")) == (1, "b")
    with pytest.raises(PlacementError, match="no middle one"):
        middle_stage(model("a", "b"))


def test_recovery_ends_with_the_first_answer_by_the_new_plan() -> None:
    fault = Fault("b", 1, (1,), 30, 0, killed_at=10.0, replanned_s=1.0, placement=model("a", "c"))
    late = sample(0, answer(1.0, 0.0), sent=5.0, done=11.5, stages=3)
    first = sample(0, answer(1.0, 0.0), sent=5.0, done=12.0, stages=2)
    assert recovery(fault, model("a", "b", "c"), [late, first]) == pytest.approx(2.0)
    assert recovery(fault, model("a", "b", "c"), [late]) == -1.0
