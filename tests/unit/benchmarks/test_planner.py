"""Sittings of the planner's benchmark add up, and only whole trials are summed up."""

from __future__ import annotations

from pathlib import Path

import planner
from planner_instances import plain
from sittings import Book


def test_a_second_sitting_runs_what_lacks(tmp_path: Path) -> None:
    chosen = [case for case in plain(2, 8) if case.labels["blocks"] == 25]
    book = Book(tmp_path / "book.jsonl", "a")
    ticks: list[None] = []
    planner.measured(chosen, book, 1, 0.0, lambda: ticks.append(None))
    assert 0 < len(book.records) < len(chosen), "a sitting ends after its minutes"
    first = dict(book.records)
    half = planner.summed(planner.whole(chosen, book))
    assert half["trials"] == {"random": {4: 1}}, "of 8 nodes the first trial lacks"
    later = Book(book.path, "a")
    planner.measured(chosen, later, 1, 5.0, lambda: ticks.append(None))
    assert later.records.keys() == {planner.key(case) for case in chosen}
    assert {key: later.records[key] for key in first} == first, "what was there was not run again"
    assert planner.summed(planner.whole(chosen, later))["trials"] == {"random": {4: 2, 8: 2}}


def test_what_an_earlier_planner_solved_can_be_run_again(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"
    chosen = [case for case in plain(2, 4) if case.labels["blocks"] == 25]
    book = planner.opened(path, ())
    planner.measured(chosen, book, 1, 5.0, lambda: None)
    old = {**book.records[planner.key(chosen[0])], "planner": "another"}
    book.add(planner.key(chosen[0]), old)
    assert planner.opened(path, ["beam"]).records == book.records
    assert planner.opened(path, ["subset-dp"]).records.keys() == {planner.key(chosen[1])}
