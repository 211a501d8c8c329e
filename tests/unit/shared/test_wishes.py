"""What may be wanted of a plan, and how one wish changes another."""

from __future__ import annotations

import math
from typing import Any

import pytest

from stageline.errors import ConfigError
from stageline.wishes import NONE, Wishes, check_objective, merge

SAID = Wishes(priority=0.0, rate_per_s=2.5, max_replicas=3, source="a", forbidden=("b",), required=("a", "c"))


def test_what_is_not_said_stays() -> None:
    assert merge(NONE, SAID) == SAID == merge(SAID, NONE)
    assert merge(SAID, Wishes(forbidden=("d", "e"))).forbidden == ("d", "e")
    assert merge(SAID, NONE, ("priority", "rate_per_s", "source", "forbidden")) == Wishes(
        max_replicas=3, required=("a", "c")
    )
    assert SAID.nodes == ("a", "b", "c")
    assert Wishes(source="a", forbidden=("b",)).to_json() == {"source": "a", "forbidden": ["b"]}


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("priority", -1.0),
        ("priority", math.nan),
        ("priority", math.inf),
        ("priority", 1e-10),
        ("rate_per_s", 0.0),
        ("rate_per_s", math.nan),
        ("max_replicas", 0),
        ("max_replicas", 2 * 10**9),
        ("source", ""),
        ("forbidden", ("a", "a")),
        ("required", ("",)),
        ("required", ("x" * 201,)),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(field: str, bad: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(NONE, Wishes(**{field: bad}))
    assert caught.value.message.startswith((f"{field}:", "the name of a worker")) and "\n" not in caught.value.message


def test_wishes_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="b is source, too"):
        merge(SAID, Wishes(source="b"))
    with pytest.raises(ConfigError, match="c is required, too"):
        merge(SAID, Wishes(forbidden=("c",)))
    with pytest.raises(ConfigError, match="source cannot be set and unset at once"):
        merge(SAID, Wishes(source="c"), ("source",))
    with pytest.raises(ConfigError, match="'color' cannot be unset"):
        merge(SAID, NONE, ("color",))


def test_objectives_are_those_of_the_planner() -> None:
    from stageline.wishes import OBJECTIVES
    from stageline_coordinator.planner import problem

    assert OBJECTIVES == problem.OBJECTIVES
    check_objective("latency")
    with pytest.raises(ConfigError, match="must be one of throughput, latency, weighted, not 'fast'"):
        check_objective("fast")
