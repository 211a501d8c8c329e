"""Rows of `emulated.py`: each has a name of its own, growth is against one box, and a sitting ends in time."""

from __future__ import annotations

import signal
from typing import Any

import pytest

import emulated
from emulated_rows import Row, emulation, rows
from stageline.errors import NotReadyError


def measured(row: str, rps: float, **more: Any) -> dict[str, Any]:
    return {"row": row, "throughput_rps": rps, **more}


def test_every_row_has_a_name_and_can_be_emulated() -> None:
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)
    assert {"equal/resnet50/20", "below-half/minilm/4", "mixed/resnet50/5", "too-small/resnet50/1"} <= set(names)
    assert names[:3] == ["equal/resnet50/1", "equal/resnet50/2", "equal/resnet50/4"], "the most important first"
    clusters = {row.name: emulation(row, 60, 30) for row in rows()}
    assert all(cluster.cpus <= 1.6 + 1e-9 for cluster in clusters.values())
    assert [box.memory_mib for box in clusters["mixed/minilm/5"].boxes] == [2048, 1024, 1024, 512, 512]
    assert len(clusters["seifer-20/resnet50/20"].boxes) == 20 and clusters["seifer-20/resnet50/20"].limits_links
    assert clusters["equal/resnet50/1"].workload.duration_s == 2 * clusters["equal/resnet50/2"].workload.duration_s


def test_growth_is_against_one_box_of_the_same_model() -> None:
    found = [
        measured("equal/resnet50/1", 0.6),
        measured("equal/resnet50/1/again", 0.4),
        measured("equal/resnet50/8", 3.6, bound_rps=4.5),
        measured("below-half/resnet50/4", 1.6),
        measured("equal/minilm/2", 9.0),
        {"row": "too-small/resnet50/1", "refused": "no plan fits"},
    ]
    assert emulated.growth(found) == {
        "equal/resnet50/1": {"times": 1.2, "efficiency": 1.2},
        "equal/resnet50/8": {"times": 7.2, "efficiency": 0.9, "of_bound": 0.8},
        "below-half/resnet50/4": {"times": 3.2, "efficiency": 0.8},
    }
    told = emulated.result(found[::-1])
    assert told["rows"][0]["row"] == "equal/resnet50/1" and told["defer"] == {"times": 7.2, "paper": 1.53}


def test_rows_kept_under_the_same_definition_are_not_measured_again() -> None:
    one, two, *_ = rows()
    kept = [{**one.defined(45, 20), "throughput_rps": 1.0}, {**two.defined(10, 20), "throughput_rps": 2.0}]
    assert emulated.pending([one, two], kept, 45, 20) == [two]
    assert emulated.pending([one, two], kept, 10, 20) == [one]


def test_a_row_that_fails_or_takes_too_long_costs_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def one(row: Row) -> dict[str, Any]:
        if row.model == "fails":
            raise NotReadyError("n3 has not registered")
        if row.model == "hangs":
            signal.pause()
        return measured(row.name, 1.0)

    chosen = [Row("equal", model, (0.08,)) for model in ("fails", "hangs", "works")]
    found = list(emulated.sitting(chosen, one, 0.0, 0.001))
    assert [one["row"] for one in found] == ["equal/works/1"]
    said = capsys.readouterr().err
    assert "equal/fails/1 failed" in said and "n3 has not registered" in said and "not done within 0.001" in said


def test_a_sitting_begins_no_row_that_would_not_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert not list(emulated.sitting(rows()[:2], lambda row: measured(row.name, 1.0), 1.0, 9.0))
    assert "2 rows are left for another sitting, from equal/resnet50/1 on" in capsys.readouterr().err


def test_parts_say_whether_it_was_steady() -> None:
    timeline = [{"at_s": -0.5, "answered": 9}, *({"at_s": i / 2, "answered": i // 2} for i in range(6))]
    assert emulated.parts(timeline) == [0.0, 2.0, 4.0]
