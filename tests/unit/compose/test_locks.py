"""What the locks pin can be had for the boxes' processors: asked of the package index, metadata only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INDEX_AWAY = ("error sending request", "Failed to fetch", "dns error", "Connection refused", "timed out")


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "compose" / "lock.py"), "--check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def test_all_of_them_are_wheels_for_arm() -> None:
    done = check("--machine", "aarch64")
    if done.returncode and any(sign in done.stderr for sign in INDEX_AWAY):
        pytest.skip("no package index is reached")
    assert done.returncode == 0, done.stderr
