"""Lets the tests of this folder import their helpers by name; skips them, with the reason, where Docker is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engine import Site, missing


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The images built and compose.yaml up; all of it is gone afterwards."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with Site() as built:
        yield built
