"""What the tests of both rigs do with a scenario."""

from __future__ import annotations

import pytest

from .means import lacking
from .model import Judge
from .rig import Rig
from .runner import IN_FLIGHT, run
from .scenarios import Scenario
from .selection import SEED
from .sitting import struck


def check(rig: Rig, scenario: Scenario, judge: Judge) -> None:
    """The scenario's promises are kept."""
    skip_if_lacking(scenario)
    report = struck(rig, scenario, judge, SEED)
    assert not report.failures, report
    assert report.in_flight >= IN_FLIGHT
    assert report.proof


def check_control(rig: Rig, scenario: Scenario, judge: Judge) -> None:
    """Aimed at a bystander, the run says that nothing was in flight there and that the victim is unhurt."""
    skip_if_lacking(scenario)
    report = run(rig, scenario, judge, SEED, aimed=False)
    assert report.in_flight == 0, report
    assert not report.proof, report
    assert {failure.split(":")[0] for failure in report.failures} >= {"requests are in flight", "the fault is seen"}
    assert report.tally.lost == report.tally.wrong == 0


def skip_if_lacking(scenario: Scenario) -> None:
    """Where the machine cannot do it."""
    reason = lacking(scenario.event)
    if reason:
        pytest.skip(reason)
