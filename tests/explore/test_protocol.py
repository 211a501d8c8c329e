"""Requests, plan changes and faults in every order: whatever happens, each request has one outcome, and it is its own.

Explored whole, within bounds: two workers, one gateway, one coordinator, a change of plan (a worker leaves, or dies),
and at most one fault of the kinds named, at any moment.
"""

from __future__ import annotations

import sys

import explorer
import pytest
from explorer import Scenario, explore
from world import ViolationError

from stageline_coordinator.draining import Drain
from stageline_gateway.outcomes import Outcomes
from stageline_gateway.routing import Router

SCENARIOS = {
    "two requests": Scenario(2),
    "plans, digests and batches are lost": Scenario(1, frozenset({"lose"}), 1),
    "messages and batches come twice": Scenario(1, frozenset({"duplicate"}), 1),
    "the gateway restarts, no worker leaves": Scenario(1, frozenset({"gateway"}), 1, leave=False),
    "a worker's connection breaks, nothing is asked": Scenario(0, frozenset({"break"}), 1, leave=False),
    "each stage has a standby": Scenario(1, standbys=1),
}
LONGER = {
    "a worker dies": Scenario(1, frozenset({"crash"}), 1, leave=False),
    "a worker's connection breaks": Scenario(1, frozenset({"break"}), 1),
    "the coordinator restarts": Scenario(1, frozenset({"coordinator"}), 1),
    "the coordinator restarts, no worker leaves": Scenario(1, frozenset({"coordinator"}), 1, leave=False),
    "the gateway restarts": Scenario(1, frozenset({"gateway"}), 1),
    "time passes early": Scenario(1, frozenset({"late"}), 1),
    "a worker dies, each stage has a standby": Scenario(1, frozenset({"crash"}), 1, leave=False, standbys=1),
    "the same, nothing is asked": Scenario(0, frozenset({"crash"}), 1, leave=False, standbys=1),
}
"""Minutes, or more: `python tests/explore/test_protocol.py "a worker dies"`.

The states of those that have come to their end are in docs/reliability.md.
"""


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_order(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = explore(SCENARIOS[name])
    with capsys.disabled():
        sys.stdout.write(f"\n{name}: {found.states} states, {found.ends} ways to end\n")
    assert found.states > 500


class TestMutations:
    """Defects put in on purpose, so that it is known that each promise can fail."""

    def test_a_plan_that_does_not_drain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Drain, "settle", lambda self, gateways, now: self._old.clear())
        with pytest.raises(ViolationError, match="while the gateway may still send to it"):
            explore(Scenario(1))

    def test_credits_that_are_not_given_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Router, "release", lambda self, model, path, nbytes: None)
        with pytest.raises(ViolationError, match=r"credits, bytes and batches left: [(]2, "):
            explore(Scenario(1, leave=False))

    def test_a_batch_that_is_not_sent_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Outcomes, "overdue", lambda self, batch_id, now: None)
        monkeypatch.setattr(explorer, "MAX_WAITS", 3)
        with pytest.raises(ViolationError, match="it does not settle"):
            explore(Scenario(1, frozenset({"lose"}), 1, leave=False))


if __name__ == "__main__":
    sys.stdout.write(f"{explore({**SCENARIOS, **LONGER}[sys.argv[1]])}\n")
