"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster of the user's is found."""
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("STAGELINE_COORDINATOR", "STAGELINE_GATEWAY", "STAGELINE_CONFIG", "STAGELINE_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
