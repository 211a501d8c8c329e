"""Which scenarios a test run takes: a share of all, chosen by a seed that the environment may set.

Otherwise the seed is the commit's: tests of one commit hurt the same things, and those of many commits all things.
"""

from __future__ import annotations

import os
import random
import shlex
import subprocess
from pathlib import Path

from .scenarios import SCENARIOS, Scenario

VARIABLE = "STAGELINE_FAULT_SEED"
WITHOUT_COMMIT = 1
SHARE = float(os.environ.get("STAGELINE_FAULT_SHARE", "0.1"))


def seed() -> int:
    """The environment's, else the first digits of the commit's hash; `WITHOUT_COMMIT` outside a checkout."""
    if VARIABLE in os.environ:
        return int(os.environ[VARIABLE])
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return WITHOUT_COMMIT
    return int(done.stdout[:8], 16)


SEED = seed()


def chosen(rig: str, number: int = SEED, share: float = SHARE) -> list[Scenario]:
    """Of the scenarios on that rig, in their order; of few scenarios perhaps none, but one now and then."""
    here = [scenario for scenario in SCENARIOS if scenario.rig == rig]
    choose = random.Random(f"{number}/{rig}")
    picked = choose.sample(here, min(len(here), int(share * len(here) + choose.random())))
    return [scenario for scenario in here if scenario in picked]


def kinds(rig: str) -> list[Scenario]:
    """Of each kind of event the scenario of which most is to be seen."""
    found: dict[str, Scenario] = {}
    for scenario in SCENARIOS:
        kind = scenario.event.kind
        if scenario.rig == rig and (kind not in found or _seen_of(scenario) >= _seen_of(found[kind])):
            found[kind] = scenario
    return list(found.values())


def _seen_of(scenario: Scenario) -> int:
    return scenario.notices + 2 * scenario.localises + scenario.degrades


def again() -> str:
    """The command that repeats what pytest runs now: the same scenario, the same choices in it."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "tests/faults").rsplit(" (", 1)[0]
    return f"{VARIABLE}={SEED} python -m pytest {shlex.quote(test)}"
