"""What a worker measures beside its blocks: what lasts on a quota, cold caches, messages, what it takes for itself."""

from __future__ import annotations

import pytest
import torch

from stageline.blocks import BlockSpec, DimRange, TensorRef, ValueSpec
from stageline.manifest import ModelManifest
from stageline.sockets import Sockets
from stageline_stage.executor import cold, hopcost
from stageline_stage.executor.device import CpuRunner
from stageline_stage.executor.sustain import Sustained, sustained
from stageline_stage.upkeep import WINDOW_S, WINDOWS, Upkeep, share


def test_short_runs_within_a_quota_count_as_what_they_take_in_the_long_run() -> None:
    wall, processor = [0.001, 0.001, 0.008, 0.001], [0.001] * 4
    assert sustained(wall, processor, 0.0) == wall
    assert sustained(wall, processor, 0.25) == [0.004] * 4
    assert sustained([0.008] * 4, processor, 0.25) == [0.008] * 4, "the box is busy beside its quota"


def test_so_do_batches_whether_or_not_they_come_without_end() -> None:
    assert Sustained(0.0).add(0.001, 0.001) == 0.001
    idle, full = Sustained(0.5), Sustained(0.5)
    assert [idle.add(0.004, 0.004) for _ in range(9)] == [0.008] * 9, "alone each passes at full speed"
    walls = [0.004, 0.012] * 50
    counted = [full.add(wall, 0.004) for wall in walls]
    assert sum(counted[10:]) == pytest.approx(sum(walls[10:]), rel=0.02), "stopped every other time"


def test_processor_time_is_taken_where_there_is_a_quota() -> None:
    run = lambda x: [x @ x]  # noqa: E731
    inputs = [torch.ones(200, 200)]
    assert CpuRunner(torch.device("cpu")).start(run, inputs).processor_s == 0.0
    assert CpuRunner(torch.device("cpu"), 0.5).start(run, inputs).processor_s > 0.0


DIMS = {"batch": DimRange(1, 8, 1)}


def block(name: str, elements: int, flops: int) -> BlockSpec:
    tensor = TensorRef("w", name, "float32", (elements,), 4 * elements, 4 * elements)
    x = ValueSpec("x", "float32", ("batch", 4))
    return BlockSpec(name, name, 1, (tensor,), (x,), (x,), flops, 1)


def test_caches_are_filled_with_what_other_blocks_read() -> None:
    table, dense, other = block("table", 1000, 10), block("dense", 100, 200), block("other", 100, 9999)
    assert [cold.read_bytes(one) for one in (table, dense, other)] == [20, 400, 400], "a table is hardly read"
    manifest = ModelManifest("m", table.inputs, table.outputs, (table, dense, other), DIMS)
    assert cold.others_bytes(manifest, 1, 1 << 40) == 420
    assert cold.others_bytes(manifest, 1, 400) == 100, "little memory is free"
    huge = ModelManifest("m", table.inputs, table.outputs, (table, block("huge", 10**9, 10**12)), DIMS)
    assert cold.others_bytes(huge, 0, 1 << 40) == cold.MOST_BYTES
    cold.Caches(0).fill()
    cold.Caches(1 << 16).fill()


def test_a_message_costs_something_and_a_larger_one_more() -> None:
    sockets = Sockets("tcp")
    try:
        cost = hopcost.measure(sockets, "127.0.0.1")
    finally:
        sockets.close()
    assert 0 < cost.hop_s < 0.1 and 0 < cost.byte_s < 1e-6


def test_costs_of_messages_come_from_two_sizes_and_grow_under_a_quota() -> None:
    small, large = (2 * (3e-4 + nbytes * 1e-9) for nbytes in (hopcost.SMALL, hopcost.LARGE))
    cost = hopcost.from_times(small, large)
    assert cost == pytest.approx((3e-4, 1e-9))
    assert hopcost.from_times(large, small).byte_s == 0.0 and hopcost.from_times(0.0, 1.0).hop_s == 0.0
    assert cost.on(0.0) == cost.on(4.0) == cost and cost.on(0.5) == pytest.approx((6e-4, 2e-9))


def test_upkeep_is_what_is_always_there() -> None:
    upkeep, used = Upkeep(), 100.0
    upkeep.add(0.0, used)
    assert upkeep.cpus == 0.0
    for second in range(1, 20):
        used += 0.5 if 5 <= second < 15 else 0.02  # downloads and measurements come and go
        upkeep.add(float(second), used)
    assert upkeep.cpus == pytest.approx(0.02)
    upkeep.add(20.0, 1.0)  # the executor was started anew
    for second in range(21, 21 + round(WINDOW_S) * (WINDOWS + 1)):
        upkeep.add(float(second), 1.0 + 0.04 * (second - 20))
    assert upkeep.cpus == pytest.approx(0.04), "in time more is believed, too"


@pytest.mark.parametrize(
    ("cpus", "capacity", "threads", "wanted"),
    [
        (0.02, 0.2, 1, 0.1),
        (0.1, 1.0, 1, 0.1),
        (0.1, 2.0, 1, 0.0),
        (0.1, 2.0, 2, 0.05),
        (0.3, 0.2, 1, 0.9),
        (0.0, 0.5, 1, 0),
    ],
)
def test_it_slows_stages_down_where_they_want_all_that_the_box_has(
    cpus: float, capacity: float, threads: int, wanted: float
) -> None:
    assert share(cpus, capacity, threads) == pytest.approx(wanted)
