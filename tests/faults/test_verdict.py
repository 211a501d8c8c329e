"""The demands themselves: what must not happen, and what must be seen, is found to have happened, and to be missing."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from faults.commits import KilledInCommit
from faults.damage import BadCache
from faults.events import CutOff, Event, Net, Reset, Signal, Target
from faults.headless import Headless, Planless
from faults.leaders import Apart
from faults.ledger import Tally
from faults.model import Judge
from faults.rig import COORDINATORS, Rig
from faults.runner import Report
from faults.scenarios import BY_NAME, SCENARIOS, Scenario
from faults.selection import chosen, kinds
from faults.sitting import STRIKES, struck
from faults.table import table
from faults.toxics import Drop
from faults.verdict import IN_FLIGHT, MISSED, broken
from faults.watch import Broadcasts

from stageline.plan import Digest, NodeView, StalledLink

QUIET = BY_NAME["coordinator killed"]
WELL = Tally(sent=50, accepted=50, answered=50)


class TestWhatMustNotHappen:
    def test_nothing_is_said_against_a_good_run(self) -> None:
        assert QUIET.undisturbed
        assert broken(QUIET, WELL, [], IN_FLIGHT) == []

    @pytest.mark.parametrize(
        "name",
        ["lost", "duplicated", "late", "stolen", "failed", "wrong", "refused", "expired", "repeated", "for_good"],
    )
    def test_one_request_is_enough(self, name: str) -> None:
        (said,) = broken(QUIET, Tally(**{name: 1}), ["failed: it broke"], IN_FLIGHT)
        assert said.startswith("1 requests ")
        assert said.endswith("(failed: it broke)")

    def test_what_a_scenario_allows_is_not_held_against_it(self) -> None:
        gone = BY_NAME["gateway killed"]
        assert broken(gone, Tally(refused=3, expired=1, repeated=2), ["rejected: full"], IN_FLIGHT) == []

    def test_no_scenario_allows_a_refusal_without_a_time_to_come_back(self) -> None:
        assert not [one.name for one in SCENARIOS if not broken(one, Tally(for_good=1, repeated=1), [], IN_FLIGHT)]
        (said,) = broken(BY_NAME["gateway killed"], Tally(refused=2, for_good=1), ["rejected: no"], IN_FLIGHT)
        assert said == "1 requests were refused without a time to come back (rejected: no)"

    def test_too_few_in_flight_prove_nothing(self) -> None:
        (said,) = broken(QUIET, WELL, [], IN_FLIGHT - 1)
        assert "only 19 requests were in flight" in said

    def test_a_fault_that_hit_no_request_is_a_miss(self) -> None:
        assert broken(BY_NAME["worker killed"], WELL, [], IN_FLIGHT) == [MISSED]


def view(state: str = "alive", executor: str = "a/1") -> NodeView:
    return NodeView("a", "i", state, (executor,))  # type: ignore[arg-type]


def broadcasts(*told: tuple[float, list[NodeView]], stalled: str = "") -> Broadcasts:
    made = Broadcasts()
    for at, nodes in told:
        links = (StalledLink(source="b/1", target=stalled, number=1),) if stalled else ()
        made.note(Digest(term=1, version=1, sequence=1, nodes=tuple(nodes), stalled=links), at)
    return made


class TestWhatMustBeSeen:
    def test_nobody_is_noticed_who_stays_as_he_is(self) -> None:
        assert broadcasts((1.0, [view()]), (3.0, [view()])).noticed("a", 2.0) is None

    @pytest.mark.parametrize("then", [[view("suspect")], [view(executor="a/2")], []])
    def test_suspicion_another_executor_and_absence_are_noticed(self, then: list[NodeView]) -> None:
        assert broadcasts((1.0, [view()]), (3.0, then)).noticed("a", 2.0) == 3.0

    def test_what_was_said_before_the_strike_does_not_count(self) -> None:
        assert broadcasts((1.0, [view("suspect")]), (1.5, [view()]), (3.0, [view()])).noticed("a", 2.0) is None

    def test_of_whom_nothing_was_known_nothing_is_noticed(self) -> None:
        assert broadcasts((3.0, [view("suspect")])).noticed("a", 2.0) is None

    def test_a_link_is_localised_by_its_end(self) -> None:
        assert broadcasts((3.0, [view()]), stalled="a/1").localised("a", 2.0) == 3.0
        assert broadcasts((3.0, [view()]), stalled="gateway/i").localised("", 2.0) == 3.0

    def test_a_link_that_was_found_before_the_strike_is_not_it_however_often_it_is_named(self) -> None:
        told = broadcasts((1.0, [view()]), (3.0, [view()]), stalled="a/1")
        assert told.localised("a", 2.0) is None

    @pytest.mark.parametrize(("stalled", "after"), [("", 2.0), ("c/1", 2.0), ("a/1", 4.0)])
    def test_no_link_another_link_and_one_of_before_are_not_it(self, stalled: str, after: float) -> None:
        assert broadcasts((3.0, [view()]), stalled=stalled).localised("a", after) is None


def cluster() -> Any:
    """As far as proofs look at it: everybody lives, and the coordinator not."""
    gone = SimpleNamespace(running=False, exit_code=lambda: -9)
    links = {f"peer:{name}": proxy() for name in COORDINATORS}
    return SimpleNamespace(coordinator=gone, proxies=links)


def proxy() -> Any:
    return SimpleNamespace(name="x", counts=Counter[str]())


class TestAnEmptyVictimProvesNothing:
    @pytest.mark.parametrize(
        "event",
        [
            *(Signal("worker", how) for how in ("kill", "freeze", "freeze then kill", "term")),  # type: ignore[arg-type]
            *(kind(how) for kind in (Headless, Planless) for how in ("kill", "freeze")),  # type: ignore[arg-type]
            *(BadCache(how) for how in ("flip", "truncate", "truncate under it")),  # type: ignore[arg-type]
            Net("between", Drop()),
            Reset("between"),
            CutOff(),
            Apart(),
        ],
        ids=repr,
    )
    def test_for_lack_of_processes_and_links(self, event: Event) -> None:
        assert not event.proof(cluster(), Target("nobody", notes=["cache", "tensor"]))

    def test_nor_does_a_trace_of_nobody(self, tmp_path: Any) -> None:
        (tmp_path / "trace").write_text("1 fsync(3) = ?\n")
        assert not KilledInCommit().proof(cluster(), Target("nobody", notes=[str(tmp_path / "trace")]))


class TestMisses:
    def runs(self, monkeypatch: pytest.MonkeyPatch, *failures: list[str]) -> Report:
        left = iter(failures)

        def run(rig: Rig, scenario: Scenario, judge: Judge, seed: int) -> Report:
            return Report(scenario.name, seed, failures=next(left))

        monkeypatch.setattr("faults.sitting.run", run)
        return struck(None, QUIET, None, 1)  # type: ignore[arg-type]

    def test_a_strike_that_hits_nothing_is_repeated_and_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        report = self.runs(monkeypatch, [MISSED], [MISSED], [])
        assert (report.misses, report.failures) == (2, [])
        assert table([report, Report(QUIET.name, 2)]).splitlines()[-1].startswith(f"| {QUIET.name} | 2 | 0 | 2 |")

    def test_a_run_that_only_misses_has_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.runs(monkeypatch, *[[MISSED]] * STRIKES).failures == [MISSED]

    def test_a_promise_that_was_broken_on_the_way_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.runs(monkeypatch, ["1 requests were lost", MISSED], []).failures[0] == "1 requests were lost"


class TestSelection:
    def test_commits_take_different_scenarios_and_one_commit_the_same(self) -> None:
        names = {rig: {s.name for s in SCENARIOS if s.rig == rig} for rig in {s.rig for s in SCENARIOS}}
        for rig, all_of in names.items():
            taken = [chosen(rig, seed, 0.1) for seed in range(100)]
            assert taken[7] == chosen(rig, 7, 0.1)
            assert {one.name for some in taken for one in some} == all_of, "each has its turn"
            assert 0.07 < sum(map(len, taken)) / 100 / len(all_of) < 0.13

    def test_controls_are_of_the_scenarios_of_which_most_is_to_be_seen(self) -> None:
        here = [one for rig in ("direct", "proxied") for one in kinds(rig)]
        for demand in ("notices", "localises", "degrades"):
            assert any(getattr(one, demand) for one in here), demand
