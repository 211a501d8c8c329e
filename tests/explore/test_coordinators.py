"""Two coordinators in every order: no term is taken twice, nobody goes back to an older plan, and one leads in the end.

Explored whole, within bounds: two coordinators, a gateway or a worker or both, one or two faults at any moment. Nobody
takes the lead from one whom it hears, unless somebody was found silent that was not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import terms
from orders import Scenario, explore
from world import ViolationError

from stageline.coordinators import Coordinators
from stageline_coordinator import leadership
from stageline_gateway.routing import Applied, PlanView
from stageline_stage.loading import Loading


def _of(kinds: str, faults: int, plans: int, services: str) -> Scenario:
    return Scenario(frozenset(kinds.split(",")), faults, plans, services)


SCENARIOS = {
    "one of two coordinators dies, with a gateway": _of("kill", 1, 1, "g"),
    "one of two coordinators dies, with a worker": _of("kill", 1, 1, "a"),
    "they do not hear each other, twice": _of("cut", 2, 1, "ga"),
    "somebody is thought silent that is not": _of("deaf", 1, 1, "ga"),
    "the leader stands still, with a gateway": _of("still", 1, 1, "g"),
    "two broadcasts are lost": _of("lose", 2, 2, "ga"),
    "two messages come twice": _of("duplicate", 2, 1, "ga"),
    "one dies, what was said before waits for it, with a gateway": _of("waits", 1, 0, "g"),
    "one dies, what was said before waits for it, with a worker": _of("waits", 1, 0, "a"),
    "one is frozen, with a gateway": _of("freeze", 1, 0, "g"),
    "one is frozen, with a worker": _of("freeze", 1, 0, "a"),
}
PAST = "a leader of the past is heard after another took over, with a worker"
LONGER = {
    PAST: _of("kill,late", 2, 0, "a"),
    "one dies, what was said before waits for it, a new plan, with a gateway": _of("waits", 1, 1, "g"),
    "one dies, what was said before waits for it, a new plan, with a worker": _of("waits", 1, 1, "a"),
    "one is frozen, a new plan, with a gateway": _of("freeze", 1, 1, "g"),
    "one is frozen, a new plan, with a worker": _of("freeze", 1, 1, "a"),
    "the leader stands still, twice, with a gateway": _of("still", 2, 0, "g"),
    "the leader stands still, with both": _of("still", 1, 0, "ga"),
    "one of two coordinators dies, with both": _of("kill", 1, 0, "ga"),
    "deaths or apart, two faults, with a gateway": _of("kill,cut", 2, 0, "g"),
    "apart or thought silent, two faults, with a gateway": _of("cut,deaf", 2, 1, "g"),
    "apart or thought silent, two faults, with a worker": _of("cut,deaf", 2, 1, "a"),
}
"""Up to some minutes: `python tests/explore/test_coordinators.py NAME`. Their states are in docs/reliability.md."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_order(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = explore(SCENARIOS[name])
    with capsys.disabled():
        sys.stdout.write(f"\n{name}: {found} states\n")
    assert found > 100


class TestMutations:
    """Defects put in on purpose, so that it is known that each promise can fail."""

    def test_terms_that_do_not_say_whose_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leadership, "next_term", lambda highest, coordinator, founder: highest + 1)
        with pytest.raises(ViolationError, match="was taken twice"):
            explore(_of("kill,cut", 2, 0, "g"))

    def test_a_term_that_is_not_on_disk_before_it_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(terms, "replace", lambda standing, **changes: standing)
        with pytest.raises(ViolationError, match="was taken twice"):
            explore(_of("kill,cut", 2, 0, "g"))

    def test_a_leader_that_does_not_step_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def promise(self: Any, term: int) -> Iterator[leadership.Step]:
            if term > self.promised:
                self.promised = term
                yield leadership.Promise(term)

        monkeypatch.setattr(leadership.Leadership, "_promise", promise)
        with pytest.raises(ViolationError, match="both made a plan"):
            explore(_of("deaf", 2, 0, "ga"))

    @pytest.mark.parametrize("fault", ["waits", "freeze"])
    def test_one_that_believes_what_was_said_before(self, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before it started, or stood still: the other's heartbeats wait in the socket, and it may lead since."""
        monkeypatch.setattr(leadership.Leadership, "_stale", lambda self, stamp, echo: False)
        with pytest.raises(ViolationError, match="takes the lead from"):
            explore(_of(fault, 1, 0, "g"))

    def test_nobody_takes_over_from_the_dead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leadership.Leadership, "called", lambda self, term: self._promise(term))
        with pytest.raises(ViolationError, match="does not come to rest"):
            explore(_of("kill", 1, 0, "g"))

    def test_a_gateway_that_takes_any_plan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def apply(self: Any, plan: Any) -> Applied:
            self.plan = plan
            return Applied.CHANGED

        monkeypatch.setattr(PlanView, "apply_plan", apply)
        with pytest.raises(ViolationError, match="back to"):
            explore(_of("kill", 1, 1, "g"))

    def test_a_service_that_listens_to_leaders_of_the_past(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def welcomed(self: Any, cluster: str, term: int) -> bool:
            self._cluster, self._term = cluster, term
            return True

        monkeypatch.setattr(Coordinators, "welcomed", welcomed)
        with pytest.raises(ViolationError, match="listens to term"):
            explore(LONGER[PAST])

    def test_a_worker_that_takes_any_plan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def prepare(self: Any, message: Any) -> list[Any]:
            self.epoch = (message.term, message.version)
            return []

        monkeypatch.setattr(Loading, "prepare", prepare)
        with pytest.raises(ViolationError, match="back to"):
            explore(LONGER[PAST])


if __name__ == "__main__":
    sys.stdout.write(f"{explore({**SCENARIOS, **LONGER}[sys.argv[1]])} states\n")
