"""Requests, plan changes and faults in every order: whatever happens, each request has one outcome, and it is its own.

Explored whole, within bounds: two workers, one gateway, one coordinator, a change of plan (a worker leaves, or dies),
and at most one fault of the kinds named, at any moment.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import explorer
import pytest
from explorer import Scenario, explore
from world import ViolationError

from stageline.plan import StageKey
from stageline_coordinator.draining import Drain
from stageline_coordinator.members import Members
from stageline_coordinator.peers import Node
from stageline_coordinator.published import Published
from stageline_gateway.outcomes import Outcomes
from stageline_gateway.routing import Router

DRAINED, OPENED = ("a is to be drained", "a leaves"), ("a is to be drained", "a is opened")
ADDED = ("a second model is added", "a leaves")
WAITS = Scenario(1, frozenset({"waits"}), 1, overtaking=0)
EXECUTOR = Scenario(1, frozenset({"executor"}), 1, events=(), overtaking=0)
SCENARIOS = {
    "two requests": Scenario(2),
    "plans, digests and batches are lost": Scenario(1, frozenset({"lose"}), 1),
    "messages and batches come twice": Scenario(1, frozenset({"duplicate"}), 1),
    "the gateway restarts, no worker leaves": Scenario(1, frozenset({"gateway"}), 1, events=()),
    "a worker's connection breaks, nothing is asked": Scenario(0, frozenset({"break"}), 1, events=()),
    "each stage has a standby": Scenario(1, standbys=1),
    "a worker is drained, then leaves; plans, digests and batches are lost": Scenario(
        1, frozenset({"lose"}), 1, events=DRAINED
    ),
    "the coordinator restarts, a worker leaves, no overtaking": Scenario(
        1, frozenset({"coordinator"}), 1, overtaking=0
    ),
    "the same, what is on the way waits for it": WAITS,
    "the gateway restarts, a worker leaves, no overtaking": Scenario(1, frozenset({"gateway"}), 1, overtaking=0),
    "an executor dies, no overtaking": EXECUTOR,
    "an executor dies, each stage has a standby, no overtaking": replace(EXECUTOR, standbys=1),
    "a worker dies, each stage has a standby, no overtaking": Scenario(
        1, frozenset({"crash"}), 1, events=(), standbys=1, overtaking=0
    ),
}
LONGER = {
    "a worker is drained, then leaves; messages and batches come twice": Scenario(
        1, frozenset({"duplicate"}), 1, events=DRAINED
    ),
    "a worker is drained, then opened": Scenario(1, events=OPENED),
    "a worker's connection breaks, a worker leaves, no overtaking": Scenario(1, frozenset({"break"}), 1, overtaking=0),
    "an executor dies, a worker leaves, no overtaking": replace(EXECUTOR, events=("a leaves",)),
    "a worker dies, a worker leaves, no overtaking": Scenario(1, frozenset({"crash"}), 1, overtaking=0),
    "a second model is added, a worker leaves": Scenario(1, events=ADDED),
    "a worker dies": Scenario(1, frozenset({"crash"}), 1, events=()),
    "a worker's connection breaks": Scenario(1, frozenset({"break"}), 1),
    "the coordinator restarts": Scenario(1, frozenset({"coordinator"}), 1),
    "the coordinator restarts, no worker leaves": Scenario(1, frozenset({"coordinator"}), 1, events=()),
    "the gateway restarts": Scenario(1, frozenset({"gateway"}), 1),
    "time passes early": Scenario(1, frozenset({"late"}), 1),
    "a worker dies, each stage has a standby": Scenario(1, frozenset({"crash"}), 1, events=(), standbys=1),
    "the same, nothing is asked": Scenario(0, frozenset({"crash"}), 1, events=(), standbys=1),
}
"""A quarter of a minute, or many: `python tests/explore/test_protocol.py "a worker dies"`.

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

    def test_a_worker_that_goes_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def may_go(node: Node, keep: frozenset[StageKey]) -> bool:
            return node.leaving and not node.farewell

        monkeypatch.setattr(Published, "_may_go", staticmethod(may_go))
        with pytest.raises(ViolationError, match="goes while the gateway may still send to it"):
            explore(Scenario(1))

    def test_an_executor_whose_death_is_kept_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Members, "executor_down", lambda self, node, executor, computing: None)
        monkeypatch.setattr(explorer, "MAX_WAITS", 3)
        with pytest.raises(ViolationError, match="it does not settle"):
            explore(EXECUTOR)

    def test_credits_that_are_not_given_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Router, "release", lambda self, model, path, nbytes: None)
        with pytest.raises(ViolationError, match=r"credits, bytes and batches left: [(]2, "):
            explore(Scenario(1, events=()))

    def test_a_batch_that_is_not_sent_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Outcomes, "overdue", lambda self, batch_id, now: None)
        monkeypatch.setattr(explorer, "MAX_WAITS", 3)
        with pytest.raises(ViolationError, match="it does not settle"):
            explore(Scenario(1, frozenset({"lose"}), 1, events=()))


if __name__ == "__main__":
    sys.stdout.write(f"{explore({**SCENARIOS, **LONGER}[sys.argv[1]])}\n")
