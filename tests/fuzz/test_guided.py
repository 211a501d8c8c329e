"""The fuzzer finds what is there to be found; without Atheris (`pip install -e '.[fuzz]'`) it is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GUIDED = Path(__file__).parent / "guided.py"


def test_a_planted_defect_is_found(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, str(GUIDED), "planted", "--runs", "400000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, report["found"]) == (1, "IndexError: planted"), done.stdout[-2000:]
    assert report["edges"] > report["edges_of_seeds"], "it was guided there"
    assert len(list((tmp_path / "build/fuzz").iterdir())) == 1
