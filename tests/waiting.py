"""Waiting for what happens elsewhere, in another process say: asked again and again, never slept for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def eventually(what: str, probe: Callable[[], Any], timeout_s: float = 20.0, pause_s: float = 0.01) -> Any:
    """The first true value of `probe`. Raises `AssertionError` that names `what` when none comes in time."""
    until = time.monotonic() + timeout_s
    while not (found := probe()):
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(pause_s)
    return found
