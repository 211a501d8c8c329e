"""What the soak looks at: every change for the worse in the coordinator's broadcasts."""

from __future__ import annotations

from faults.soak import accusations

from stageline.plan import NodeView


def view(state: str = "alive", executor: str = "a/1") -> dict[str, NodeView]:
    return {"a": NodeView("a", "i", state, (executor,))}  # type: ignore[arg-type]


def test_nothing_is_held_against_those_who_stay_alive() -> None:
    assert accusations([(5.0, {}), (6.0, view()), (7.0, view())]) == []


def test_suspicion_absence_and_another_executor_are_found() -> None:
    seen = [(5.0, view()), (6.0, view("suspect")), (7.0, view()), (8.0, {}), (9.0, view(executor="a/2"))]
    assert accusations(seen) == [
        "1.0 s: a is suspect with executors ['a/1']",
        "2.0 s: a is alive with executors ['a/1']",
        "3.0 s: a is left out",
        "4.0 s: a is alive with executors ['a/2']",
    ]
