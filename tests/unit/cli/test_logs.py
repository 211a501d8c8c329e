"""`stageline logs` on files: the ends of all, of one, and what is written meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stageline.cli import logfiles, run
from stageline.cli.options import EXIT_INTERRUPTED, EXIT_USAGE


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "c/logs").mkdir(parents=True)
    (tmp_path / "c/logs/gateway.log").write_text("one\ntwo\n")
    (tmp_path / "c/logs/stage-0.log").write_text("three\nhalf a li")
    return tmp_path / "c"


def follow(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """Each pause of --follow does the next step; after the last one the user interrupts."""
    waiting = list(steps)

    def pause(seconds: float) -> None:
        if not waiting:
            raise KeyboardInterrupt
        waiting.pop(0)()

    monkeypatch.setattr(logfiles.time, "sleep", pause)


def append(path: Path, text: str) -> Callable[[], None]:
    def write() -> None:
        with path.open("a") as file:
            file.write(text)

    return write


def test_all_logs_are_told_apart_and_only_whole_lines_are_shown(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["logs", "--data-dir", str(directory)]) == 0
    assert capsys.readouterr().out.splitlines() == ["gateway: one", "gateway: two", "stage-0: three"]


def test_one_log_is_shown_as_it_is(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "gateway", "--data-dir", str(directory)]) == 0
    assert capsys.readouterr().out == "one\ntwo\n"


def test_for_scripts_each_line_is_an_object_with_its_process(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "logs/gateway.log").write_text('{"event": "up", "level": "info"}\nTraceback\n[1]\n')
    assert run(["logs", "--data-dir", str(directory), "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"process": "gateway", "event": "up", "level": "info"},
        {"process": "gateway", "text": "Traceback"},
        {"process": "gateway", "text": "[1]"},
        {"process": "stage-0", "text": "three"},
    ]


def test_of_a_long_log_the_end_is_shown_from_a_whole_line_on(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfiles, "TAIL_BYTES", 6)
    assert run(["logs", "gateway", "--data-dir", str(directory)]) == 0
    assert capsys.readouterr().out == "two\n"


def test_follow_goes_on_until_interrupted(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = directory / "logs/stage-0.log"
    follow(
        monkeypatch,
        append(log, "ne\nfour"),
        append(log, "\n"),
        lambda: log.write_text("anew\n"),  # shorter than before: it was replaced
        append(log, "five\n"),
    )
    assert run(["logs", "stage-0", "--follow", "--data-dir", str(directory)]) == EXIT_INTERRUPTED
    told = capsys.readouterr()
    assert told.out.splitlines() == ["three", "half a line", "four", "anew", "five"]
    assert told.err.strip() == "stageline: interrupted", "click ends the line with ^C first"


def test_an_unknown_process_is_answered_with_those_there_are(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["logs", "nobody", "--data-dir", str(directory)]) == EXIT_USAGE
    assert capsys.readouterr().err == "stageline: no process is called nobody: there are gateway, stage-0\n"
