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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where no scenario of a kind of cluster was chosen there is no test: nothing is skipped."""
    unchosen = [item for item in items if _is_empty(item)]
    if unchosen:
        config.hook.pytest_deselected(items=unchosen)
        items[:] = [item for item in items if item not in unchosen]


def _is_empty(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("skip") if Path(__file__).parent in item.path.parents else None
    return mark is not None and str(mark.kwargs.get("reason", "")).startswith("got empty parameter set")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What chose the scenarios, so that they can be run again."""
    terminalreporter.write_line(f"tests/faults: a share of {SHARE:g}, chosen by {VARIABLE}={SEED}")
