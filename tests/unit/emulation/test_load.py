"""The load's recorder says what ended when."""

from __future__ import annotations

from typing import Any

from stageline.bench.schedule import Window
from stageline.emulation.load import SlicingRecorder


def test_every_half_second_is_said_once_also_an_empty_one() -> None:
    said: list[dict[str, Any]] = []
    recorder = SlicingRecorder(Window(1.0, 2.0), said.append)
    recorder.answered(0.0, 0.2)
    recorder.failed(0.1, "failed", "no")
    recorder.answered(0.3, 1.6)
    assert said == [
        {"slice": 0, "answered_ms": [200.0], "failed": 1},
        {"slice": 1, "answered_ms": [], "failed": 0},
        {"slice": 2, "answered_ms": [], "failed": 0},
    ]
    recorder.turn(1.9)
    assert len(said) == 3
    recorder.turn(2.0)
    assert said[3] == {"slice": 3, "answered_ms": [1300.0], "failed": 0}
    assert recorder.figures().answered == 0  # all of it was due in the warm-up
