"""From what was seen to what is said of it: numbers worked out by hand."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

import pytest

from stageline.cli.emulateplots import timeline, utilisation
from stageline.emulation.record import Phase, Placement, Record, Slice
from stageline.emulation.report import describe
from stageline.emulation.spec import Box, Emulation, Event, Link, Subject
from stageline.emulation.usage import Usage
from stageline.plan import Endpoint, ModelPlan, PlanStage, Replica, Signature

BOXES = (Box("a", 0.5, link=Link(8, 0)), Box("b", 0.25))
EVENTS = (Event(2, "link", "a", Link(16, 0)), Event(4, "lose", "b"))
EMULATION = Emulation("site", BOXES, Subject("m:make", "net"), events=EVENTS)


def placed(version: str) -> Placement:
    stages = tuple(
        PlanStage(i, i + 1, (Replica(node, f"{node}/0", Endpoint("tcp://h:1")),)) for i, node in enumerate("ab")
    )
    return Placement(ModelPlan("net", "sha", Signature((), ()), "serving", stages=stages), version)


def record() -> Record:
    """Four answers each half second; none from 4 s to 5 s, then two."""
    counts = [4] * 8 + [0] * 2 + [2] * 6
    slices = [Slice(-0.5, (9.0,), 0)]
    slices += [Slice(i / 2, (10.0,) * (count - 1) + (20.0,) if count else (), 0) for i, count in enumerate(counts)]
    mega = 10**6
    return Record(
        before=placed("before"),
        slices=slices,
        phases=[
            Phase("start", 0, 2, {"a": Usage(0.5, 0.1, 5 << 20, mega, mega), "b": Usage(0.5)}, placed("one")),
            Phase("link", 2, 4, {"a": Usage(0.9, 0.3, 9 << 20, 2 * mega, 0), "b": Usage(0.1)}, placed("two")),
            Phase("lose b", 4, 8, {"a": Usage(2.0, 0.0, 7 << 20, 0, 0)}, Placement()),
        ],
        events=[(2.01, EVENTS[0]), (4.0, EVENTS[1])],
        figures={"throughput_rps": 5.5},
    )


def described() -> dict[str, object]:
    rates = {"before": 10.0, "one": 16.0, "two": None, "": None}
    return describe(EMULATION, record(), lambda placement: rates[placement.problem], {"date": "today"})


def test_phases_are_compared_with_the_prediction_at_their_end() -> None:
    found = described()
    first, second, third = found["phases"]  # type: ignore[misc]
    assert (first["throughput_rps"], first["steady_rps"], first["predicted_rps"]) == (8, 8, 16)
    assert first["measured/predicted"] == 0.5
    assert (first["answered"], first["p50_ms"], first["p99_ms"]) == (16, 10, 20)
    assert first["plan"] == [
        {"blocks": [0, 1], "nodes": ["a"], "codec": ""},
        {"blocks": [1, 2], "nodes": ["b"], "codec": ""},
    ]
    assert (second["predicted_rps"], second["measured/predicted"]) == (None, None)
    assert (third["throughput_rps"], third["steady_rps"], third["plan"]) == (3, 4, [])
    assert found["profiled_rps"] == 10
    assert [event["silence_s"] for event in found["events"]] == [1.0, 1.0]  # type: ignore[attr-defined]


def test_utilisation_is_of_the_time_that_a_node_ran_and_of_the_rates_then() -> None:
    a, b = described()["utilisation"]  # type: ignore[misc]
    assert (a["ran_s"], a["used_cpus"], a["cpu"], a["memory_mib"]) == (8, 0.425, 0.85, 9)
    assert (a["up_mbps"], a["up"]) == (3, pytest.approx(24 / (2 * 8 + 6 * 16), rel=1e-3))
    assert (a["down_mbps"], a["down"]) == (1, None)
    assert (b["ran_s"], b["cpu"]) == (4, 0.6)


def test_pictures_are_well_formed_and_show_what_happened() -> None:
    report = described()
    over_time = Xml.fromstring(timeline(report))
    words = [element.text for element in over_time.iter() if element.text]
    assert "lose b" in words and "link of a: up 16, down unlimited Mbit/s" in words
    assert sum(element.tag.endswith("polyline") for element in over_time.iter()) == 2 + 1 + 3
    busy = [element.text for element in Xml.fromstring(utilisation(report)).iter() if element.text]
    assert "85 % (0.5)" in busy and "1 Mbit/s" in busy
    nothing = Record(phases=[Phase("start", 0, 1, {}, Placement())])
    Xml.fromstring(timeline(describe(Emulation("site", BOXES, EMULATION.subject), nothing, lambda placement: None, {})))
