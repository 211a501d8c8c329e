"""One of two gateways dies under load, and its clients go to the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.checks import check, check_control
from faults.model import Judge
from faults.rig import Rig
from faults.scenarios import Scenario
from faults.selection import chosen, kinds

CHOSEN = chosen("two gateways")
"""A cluster of its own is started for what was chosen, and then for the control, too."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("gateways") / "rig", "two gateways") as made:
        yield made


@pytest.mark.parametrize("scenario", CHOSEN, ids=lambda scenario: scenario.name)
def test_a_fault_under_load(rig: Rig, scenario: Scenario, judge: Judge) -> None:
    check(rig, scenario, judge)


@pytest.mark.parametrize("scenario", kinds("two gateways") if CHOSEN else [], ids=lambda scenario: scenario.event.kind)
def test_a_strike_that_misses_is_found_out(rig: Rig, scenario: Scenario, judge: Judge) -> None:
    check_control(rig, scenario, judge)
