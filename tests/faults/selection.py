"""Which scenarios a test run takes: all of a share, chosen by a seed that the environment may set."""

from __future__ import annotations

import os
import random

from .scenarios import SCENARIOS, Scenario

SEED = int(os.environ.get("STAGELINE_FAULT_SEED", "1"))
SHARE = float(os.environ.get("STAGELINE_FAULT_SHARE", "0.1"))


def chosen(rig: str) -> list[Scenario]:
    """Of the scenarios on that rig, in their order."""
    here = [scenario for scenario in SCENARIOS if scenario.rig == rig]
    picked = random.Random(SEED).sample(here, round(SHARE * len(here)))
    return [scenario for scenario in here if scenario in picked]


def kinds(rig: str) -> list[Scenario]:
    """One scenario of each kind of event."""
    return list({scenario.event.kind: scenario for scenario in SCENARIOS if scenario.rig == rig}.values())
