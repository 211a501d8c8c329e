"""The fuzzer finds what is there to be found; without Atheris (`pip install -e '.[fuzz]'`) it is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import guided
import pytest

GUIDED = Path(__file__).parent / "guided.py"


SEEDS, RUNS = range(1, 9), 150_000
"""libFuzzer's way depends on more than its seed (hashes, the order of files); of eight ways one leads there."""


@pytest.mark.timeout(900)  # some seeds do not find it, and others may use the processors
def test_a_planted_defect_is_found(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    for seed in SEEDS:
        command = [sys.executable, str(GUIDED), "planted", "--runs", str(RUNS), "--seed", str(seed)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        report = json.loads(done.stdout.splitlines()[-1])
        if report["found"]:
            break
    assert (done.returncode, report["found"]) == (1, "IndexError: planted"), done.stdout[-2000:]
    assert report["edges"] > report["edges_of_seeds"], "it was guided there"
    (left,) = (tmp_path / "build/fuzz").iterdir()
    again = [sys.executable, str(GUIDED), "planted", "--input", str(left)]
    repeated = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "IndexError: planted" in repeated.stderr, "what was left finds it again"


def test_figures_of_many_sittings_are_summed_up(tmp_path: Path) -> None:
    book = tmp_path / "fuzz.json"
    first = {"target": "t", "inputs": 5, "edges": 10, "edges_of_seeds": 3, "peak_mib": 100, "found": ""}
    guided.record(book, first)
    guided.record(book, {**first, "inputs": 7, "edges": 12, "edges_of_seeds": 10, "found": "a crash"})
    known = json.loads(book.read_text())["t"]
    assert (known["inputs"], known["edges"]) == (12, 12)
    assert (known["sittings"], known["edges_of_seeds"], known["found"]) == (2, 3, ["a crash"])
