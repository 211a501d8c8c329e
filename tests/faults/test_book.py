"""Runs of many sittings: what is there is not run again, and what was run under another definition does not count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from faults.book import Book
from faults.events import Signal
from faults.ledger import Tally
from faults.runner import Report
from faults.scenarios import Scenario

KILL = Scenario("kill", Signal("worker", "kill"))
FREEZE = Scenario("freeze", Signal("worker", "freeze"))
BOTH = [KILL, FREEZE]


def report(scenario: Scenario, seed: int) -> Report:
    return Report(scenario.name, seed, "w", 30, "gone", Tally(sent=5, answered=5), None, 12.5, 1, ["too late"])


def test_only_what_lacks_is_run_and_all_scenarios_get_on_alike(tmp_path: Path) -> None:
    book = Book(tmp_path / "runs.json", BOTH)
    for seed in (7, 9):
        book.add(report(KILL, seed))
    later = Book(tmp_path / "runs.json", BOTH)
    assert later.reports() == [report(KILL, 7), report(KILL, 9)]
    assert later.lacking(3, first_seed=7) == [(FREEZE, 7), (FREEZE, 8), (KILL, 8), (FREEZE, 9)]


def test_runs_of_another_definition_are_dropped(tmp_path: Path) -> None:
    book = Book(tmp_path / "runs.json", BOTH)
    for scenario in BOTH:
        book.add(report(scenario, 1))
    changed = Book(tmp_path / "runs.json", [replace(KILL, width=80), FREEZE])
    assert changed.dropped == 1
    assert changed.reports() == [report(FREEZE, 1)]


def test_what_is_forgotten_is_run_again(tmp_path: Path) -> None:
    book = Book(tmp_path / "runs.json", BOTH)
    book.add(report(KILL, 1))
    book.forget(["kill"])
    assert book.lacking(1, first_seed=1) == [(KILL, 1), (FREEZE, 1)]
