"""Rows of several sittings: one per site, model and plan, summed up by model."""

from __future__ import annotations

from typing import Any

import predictions


def row(end: int, ratio: float, site: str = "two unequal", model: str = "resnet50") -> dict[str, Any]:
    return {
        "site": site,
        "model": model,
        "plan": [{"blocks": [0, end], "nodes": ["stage-0"], "codec": "none"}],
        "measured/predicted": ratio,
        "measured/profiled": 2 * ratio,
        "within": abs(ratio - 1) <= predictions.TOLERANCE,
        "within_as_profiled": False,
    }


def test_another_plan_on_the_same_site_is_another_row() -> None:
    assert predictions.place(row(1, 1.0)) == predictions.place(row(1, 1.2))
    assert predictions.place(row(1, 1.0)) != predictions.place(row(2, 1.0))


def test_what_came_of_a_models_plans_is_counted() -> None:
    rows = [row(1, 1.2), row(2, 1.1), row(1, 0.9, "three unequal"), row(1, 3.0, model="minilm")]
    found = predictions.result(rows)
    assert found["models"]["resnet50"] == {
        "plans": 3,
        "within": 2,
        "within_as_profiled": 0,
        "measured/predicted": [0.9, 1.1, 1.2],
        "measured/profiled": [1.8, 2.2, 2.4],
    }
    assert found["models"]["minilm"]["plans"] == 1
    assert [one["site"] for one in found["rows"]][-1] == "three unequal", "in the order of the sites"
