"""Figures on disk that the planner would refuse are left out, so that they are measured again."""

from __future__ import annotations

import math
from pathlib import Path

from stageline_coordinator.figures import Figure, FigureKey, is_sound
from stageline_coordinator.recall import recall
from stageline_coordinator.store import Store

GOOD = (Figure(0.1, 10, 0.05), Figure(0.0), Figure(math.inf))
BAD = (Figure(1e-13), Figure(1e10), Figure(-1.0), Figure(math.nan), Figure(0.1, 1 << 60), Figure(0.1, 1, math.inf))


def test_only_what_the_planner_takes_is_recalled(tmp_path: Path) -> None:
    assert all(map(is_sound, GOOD)) and not any(map(is_sound, BAD))
    with Store(tmp_path) as store:
        for number, figure in enumerate(GOOD + BAD):
            if not math.isnan(figure.seconds):  # SQLite holds none
                store.put_profile(FigureKey(f"g{number}", "f"), figure)
        found = recall(store).figures
    assert sorted(key.graph for key in found) == ["g0", "g1", "g2"]
