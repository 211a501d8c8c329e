"""Lets the tests of this folder import their helpers, which are a package, by name; and judges answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.model import Judge
from faults.selection import SEED, SHARE, VARIABLE


@pytest.fixture(scope="session")
def judge() -> Judge:
    return Judge(SEED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What chose the scenarios, so that they can be run again."""
    terminalreporter.write_line(f"tests/faults: a share of {SHARE:g}, chosen by {VARIABLE}={SEED}")
