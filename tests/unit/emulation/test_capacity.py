"""What a machine can hold, and how its processors are shared out."""

from __future__ import annotations

import pytest

from stageline.emulation.capacity import check_capacity, pinned, quota, share_cores
from stageline.emulation.spec import Box, Emulation, Subject
from stageline.errors import ConfigError


def cluster(*cpus: float, memory_mib: int = 0) -> Emulation:
    boxes = tuple(Box(f"n{i}", each, memory_mib) for i, each in enumerate(cpus))
    return Emulation("site", boxes, Subject("package:make", "net"))


def test_quotas_beyond_the_machine_are_refused() -> None:
    check_capacity(cluster(*[0.08] * 20), 2, 8192)
    with pytest.raises(ConfigError, match=r"site: its 21 nodes have 1\.68 CPUs together, .* can give 1\.6 \(2, less"):
        check_capacity(cluster(*[0.08] * 21), 2, 8192)
    check_capacity(cluster(0.5, 0.5, memory_mib=3584), 2, 8192)
    with pytest.raises(ConfigError, match=r"have 7170 MiB of memory together, .* can give 7168 \(8192, less 1024\)"):
        check_capacity(cluster(0.5, 0.5, memory_mib=3585), 2, 8192)


@pytest.mark.parametrize(("cpus", "wanted"), [(0.08, (25_000, 2000)), (0.04, (25_000, 1000)), (0.1, (10_000, 1000)),
                                              (1.5, (10_000, 15_000))])  # fmt: skip
def test_the_period_is_long_only_where_it_must_be(cpus: float, wanted: tuple[int, int]) -> None:
    assert quota(cpus) == wanted


def test_boxes_stay_on_a_core_where_all_of_them_fit() -> None:
    assert share_cores([0.2, 0.6, 0.4], [3, 7]) == [7, 3, 7]
    assert pinned([0.2, 0.6, 0.4], [3, 7]) == ["7", "3", "7"]
    assert pinned([0.6, 0.6, 0.4, 0.5], [0, 1]) == ["", "", "", ""]
    assert pinned([1.5], [0, 1]) == [""]
