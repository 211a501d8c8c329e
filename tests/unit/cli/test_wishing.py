"""`models set` and `plan set` without a cluster: what cannot be is told first, in one line."""

from __future__ import annotations

import pytest

from stageline.cli import run
from stageline.cli.options import EXIT_NO_CLUSTER, EXIT_USAGE
from stageline.cli.wishing import describe
from stageline.wishes import Wishes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--priority", "-1"], "priority: must be 0 or between"),
        (["--priority", "nan"], "priority: must be 0 or between"),
        (["--rate", "inf"], "rate_per_s: must be between"),
        (["--rate", "many"], "many"),
        (["--max-replicas", "0"], "max_replicas: must be between"),
        (["--source", ""], "source: must be the name of a worker"),
        (["--forbid", "a", "--require", "a"], "forbidden: a is required, too"),
        (["--source", "a", "--unset", "source"], "source cannot be set and unset at once"),
        (["--unset", "color"], "color"),
        ([], "nothing to set"),
    ],
)
def test_what_cannot_be_is_a_usage_error(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "set", "net", *arguments]) == EXIT_USAGE
    shown = capsys.readouterr()
    assert expected in shown.err and shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1


def test_they_need_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "set", "net", "--priority", "2"]) == EXIT_NO_CLUSTER
    assert run(["plan", "set", "--objective", "latency"]) == EXIT_NO_CLUSTER
    assert run(["plan", "set", "--objective", "cheap"]) == EXIT_USAGE
    assert run(["plan", "set"]) == EXIT_USAGE
    capsys.readouterr()


def test_wishes_are_told_in_the_words_of_the_options() -> None:
    assert describe(Wishes()) == ""
    assert describe(Wishes(priority=0.0, forbidden=("a", "b"))) == "priority 0, forbid a b"
    said = Wishes(priority=2.5, rate_per_s=30.0, max_replicas=2, source="a", required=("b",))
    assert describe(said) == "priority 2.5, rate 30, max-replicas 2, source a, require b"
