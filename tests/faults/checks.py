"""What the tests of both rigs do with a scenario."""

from __future__ import annotations

import pytest

from .means import lacking
from .model import Judge
from .rig import Rig
from .runner import run
from .scenarios import Scenario
from .selection import SEED, again
from .sitting import struck
from .table import line
from .verdict import IN_FLIGHT


def check(rig: Rig, scenario: Scenario, judge: Judge) -> None:
    """The scenario's promises are kept."""
    skip_if_lacking(scenario)
    report = struck(rig, scenario, judge, SEED)
    assert not report.failures, f"{line(report)}\nagain: {again()}"
    assert report.in_flight >= IN_FLIGHT
    assert report.proof


def check_control(rig: Rig, scenario: Scenario, judge: Judge) -> None:
    """Aimed at a bystander, the run says that nothing was in flight there and that the victim is unhurt.

    What is to be seen of the victim later, must be found missing, too.
    """
    skip_if_lacking(scenario)
    report = run(rig, scenario, judge, SEED, aimed=False)
    wanted = {"requests are in flight", "the fault is seen"}
    wanted |= {"the coordinator notices"} if scenario.notices else set()
    wanted |= {"the link is named"} if scenario.localises else set()
    wanted |= {"the slow worker is spared"} if scenario.degrades else set()
    assert report.in_flight == 0, report
    assert not report.proof, report
    assert {failure.split(":")[0] for failure in report.failures} >= wanted, f"{report}\nagain: {again()}"
    assert report.tally.lost == report.tally.wrong == 0


def skip_if_lacking(scenario: Scenario) -> None:
    """Where the machine cannot do it."""
    reason = lacking(scenario.event)
    if reason:
        pytest.skip(reason)
