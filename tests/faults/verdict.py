"""What a run's figures say against it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .ledger import Tally
from .scenarios import Scenario

IN_FLIGHT = 20
MISSED = "no request had to be dispatched again: the fault hit none"
"""What was in flight on the victim when it was aimed at had passed it when it was struck."""


def broken(scenario: Scenario, tally: Tally, errors: Sequence[str], in_flight: int) -> list[str]:
    """The promises, and the demands of the scenario, that were broken; `errors`: what clients were told."""
    never = {
        "were lost": tally.lost,
        "were answered twice": tally.duplicated,
        "ended later than the deadline allows": tally.late,
        "got another request's answer": tally.stolen,
        "failed": tally.failed,
        "were answered wrongly": tally.wrong,
        "were refused": 0 if scenario.refuses else tally.refused,
        "were refused without a time to come back": tally.for_good,
        "expired": 0 if scenario.refuses else tally.expired,
        "were dispatched again": tally.repeated if scenario.undisturbed else 0,
    }
    said = f" ({errors[0]})" if errors else ""
    found = [f"{count} requests {what}{said}" for what, count in never.items() if count]
    if in_flight < IN_FLIGHT:
        found.append(f"only {in_flight} requests were in flight on the victim, {IN_FLIGHT} are wanted")
    if scenario.repeats and not tally.repeated:
        found.append(MISSED)
    return found
