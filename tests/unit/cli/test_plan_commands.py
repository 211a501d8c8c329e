"""`stageline plan` on problem files: no cluster, no torch."""

from __future__ import annotations

import pytest

from stageline.cli import run
from stageline.cli.options import EXIT_NO_CLUSTER


def test_plan_alone_shows_the_running_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == run(["plan", "show"]) == EXIT_NO_CLUSTER
    alone, shown = capsys.readouterr().err.splitlines()
    assert alone == shown
    assert "no running cluster" in alone
