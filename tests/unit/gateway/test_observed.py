"""What the gateway tells of stages: sums by node, stage and size of batches that can be compared with profiles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stageline.data import Timing
from stageline.plan import DimRange, Endpoint, ModelPlan, PlanStage, Replica, Signature, StageKey
from stageline_gateway.batching import Batch
from stageline_gateway.observed import MOST, Observed

ENDPOINT = Endpoint(tcp="tcp://127.0.0.1:1")
REPLICAS = (Replica("a", "a/1", ENDPOINT), Replica("b", "b/1", ENDPOINT))
MODEL = ModelPlan(
    name="net",
    manifest="m",
    signature=Signature((), (), {"batch": DimRange(1, 8, 1), "sequence": DimRange(1, 64, 16)}),
    status="serving",
    stages=(PlanStage(0, 2, REPLICAS[:1]), PlanStage(2, 5, REPLICAS[1:])),
)
BATCH = Batch(1, MODEL, (1, 1), (1, 2), (1, 2), {"batch": 3, "sequence": 16}, REPLICAS, 10, 0.0, 1.0, (0, 60.0))
TIMES = (Timing(5, 1000), Timing(7, 3000))


def test_compute_times_are_summed_by_node_stage_and_items() -> None:
    seen = Observed()
    seen.add(BATCH, TIMES)
    seen.add(BATCH, TIMES)
    seen.add(replace(BATCH, rows=(1,)), TIMES)
    first, second, *single = seen.take()
    assert (first.node, first.stage, first.rows, first.batches) == ("a", StageKey("m", 0, 2), 3, 2)
    assert first.seconds == pytest.approx(0.002) and second.seconds == pytest.approx(0.006)
    assert [(one.rows, one.batches) for one in single] == [(1, 1), (1, 1)]
    assert seen.take() == ()


def test_what_a_batch_counts_for_under_a_quota_is_what_counts() -> None:
    seen = Observed()
    seen.add(BATCH, (Timing(5, 1000, 2500), Timing(7, 3000)))
    assert [one.seconds for one in seen.take()] == pytest.approx([0.0025, 0.003])


def test_other_sizes_than_those_that_were_measured_are_left_out() -> None:
    seen = Observed()
    seen.add(replace(BATCH, sizes={"batch": 3, "sequence": 17}), TIMES)
    seen.add(BATCH, TIMES[:1])
    assert seen.take() == ()


def test_what_nobody_takes_does_not_grow_for_ever() -> None:
    seen = Observed()
    for rows in range(1, MOST + 100):
        seen.add(replace(BATCH, rows=(rows,)), TIMES)
    assert len(seen.take()) == MOST
