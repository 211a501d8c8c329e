"""What a sitting has kept the next one finds; what depends on other settings, or was cut off, it does not."""

from __future__ import annotations

from pathlib import Path

from sittings import Book, fingerprint


def test_records_of_earlier_sittings_are_found_the_last_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "book.jsonl"
    Book(path, "a").add("one", {"seconds": 1})
    second = Book(path, "a")
    second.add("two", {"seconds": 2})
    second.add("one", {"seconds": 3})
    assert Book(path, "a").records == second.records == {"one": {"seconds": 3}, "two": {"seconds": 2}}


def test_records_of_other_settings_stay_but_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"
    Book(path, "a").add("one", {"seconds": 1})
    Book(path, "b").add("one", {"seconds": 2})
    assert Book(path, "a").records == {"one": {"seconds": 1}}
    assert Book(path, "b").records == {"one": {"seconds": 2}}


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"
    book = Book(path, "a")
    book.add("one", {"seconds": 1})
    book.add("two", {"seconds": 2})
    path.write_bytes(path.read_bytes()[:-9])
    Book(path, "a").add("three", {"seconds": 3})
    assert Book(path, "a").records == {"one": {"seconds": 1}, "three": {"seconds": 3}}


def test_a_fingerprint_tells_contents_and_settings_apart(tmp_path: Path) -> None:
    file = tmp_path / "made.py"
    file.write_text("1")
    before = fingerprint([file], 5)
    assert before == fingerprint([file], 5) != fingerprint([file], 6)
    file.write_text("2")
    assert fingerprint([file], 5) != before
