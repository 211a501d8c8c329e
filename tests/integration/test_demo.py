"""The demo's own scenario with less load: a worker dies with requests in flight and every answer is right."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from stageline.catalogue import Report
from stageline.demo.scenario import Sizes, run
from stageline.embedded.state import running
from stageline.plan import Plan


class Quiet:
    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def step(self, number: int, text: str) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def plan(self, title: str, plan: Plan) -> None:
        self.plans.append(plan)

    def progress(self, text: str) -> AbstractContextManager[Report]:
        return nullcontext(lambda step, fraction: None)


def test_the_demo_loses_nothing_and_answers_rightly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    narrator = Quiet()
    figures = run(narrator, tmp_path / "cache", sizes=Sizes(images=6, steady=12, after_recovery=4))
    assert figures["requests"] == figures["answered"] > 2 * 360
    assert (figures["wrong"], figures["lost"], figures["errors"]) == (0, 0, [])
    assert figures["accuracy"] > 0.95
    assert figures["bit_equal"] >= figures["alone"] >= 360
    assert figures["retried"] > 0
    assert figures["fault"]["in_flight"] >= 20
    assert figures["fault"]["gone_s"] > 0
    assert figures["recovery_s"] >= figures["fault"]["replanned_s"] > 0
    before, after = narrator.plans
    killed = figures["killed_node"]
    nodes = [[r.node for m in plan.models for s in m.stages for r in s.replicas] for plan in (before, after)]
    assert killed in nodes[0] and killed not in nodes[1]
    assert {row["model"] for row in figures["utilisation"]} == {"digits", "resnet50"}
    assert running() == []
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "state"}
