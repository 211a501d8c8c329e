"""Rows of `emulated.py`: each has a name of its own, and growth is against one box."""

from __future__ import annotations

from typing import Any

import emulated


def measured(row: str, rps: float) -> dict[str, Any]:
    return {"row": row, "throughput_rps": rps}


def test_every_row_has_a_name_and_can_be_emulated() -> None:
    names = [row.name for row in emulated.rows()]
    assert len(set(names)) == len(names)
    assert {"equal/resnet50/20", "below-half/minilm/4", "mixed/resnet50/5", "too-small/resnet50/1"} <= set(names)
    clusters = [emulated.emulation(row, 60, 30) for row in emulated.rows()]
    assert all(cluster.cpus <= 1.6 + 1e-9 for cluster in clusters)
    assert [box.memory_mib for box in clusters[names.index("mixed/minilm/5")].boxes] == [2048, 1024, 1024, 512, 512]


def test_growth_is_against_one_box_of_the_same_model() -> None:
    rows = [
        measured("equal/resnet50/1", 0.5),
        measured("equal/resnet50/4", 1.8),
        measured("below-half/resnet50/4", 1.6),
        measured("equal/minilm/2", 9.0),
        {"row": "too-small/resnet50/1", "refused": "no plan fits"},
    ]
    assert emulated.growth(rows) == {
        "equal/resnet50/1": {"times": 1.0, "efficiency": 1.0},
        "equal/resnet50/4": {"times": 3.6, "efficiency": 0.9},
        "below-half/resnet50/4": {"times": 3.2, "efficiency": 0.8},
    }
    assert emulated.result(rows[::-1])["rows"][0]["row"] == "equal/resnet50/1"
