"""Whose containers are whose: labels that name an emulation and its process, and the removal of what is left over."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Protocol

from stageline.emulation.engine import Engine, Thing
from stageline.errors import ClusterError
from stageline.owners import lives, this_process

RUN, OWNER = "stageline.emulation", "stageline.emulation.owner"
TRIES = 5
AGAIN_S = 0.5
LATE_S = 1.0
"""How long Docker may take to make what it was asked for last."""


class Remover(Protocol):
    """The part of an engine that removing needs."""

    def labelled(self, label: str) -> list[Thing]:
        """Containers and networks with that label, or that label and value."""

    def remove(self, thing: Thing) -> None:
        """One of them."""


def new_run() -> str:
    """A name that no other emulation has."""
    return uuid.uuid4().hex[:8]


def labels(run: str) -> dict[str, str]:
    """What everything of an emulation of this process bears."""
    return {RUN: run, OWNER: this_process()}


def leftovers(engine: Remover) -> list[Thing]:
    """Containers and networks of emulations whose process is gone."""
    return [thing for thing in engine.labelled(RUN) if not lives(thing.labels.get(OWNER, ""))]


def others(engine: Remover) -> list[str]:
    """The emulations that run now."""
    found = {thing.labels[RUN] for thing in engine.labelled(RUN) if lives(thing.labels.get(OWNER, ""))}
    return sorted(found)


def remove_run(engine: Remover, run: str, late_s: float = 0.0, pause: Callable[[float], None] = time.sleep) -> None:
    """Remove all of one emulation. Raises `ClusterError` naming what Docker would not let go of.

    With `late_s` again after so many seconds: whoever was interrupted may have asked for something that came later.
    """
    _remove_all(engine, run, pause)
    if late_s:
        pause(late_s)
        _remove_all(engine, run, pause)


def _remove_all(engine: Remover, run: str, pause: Callable[[float], None]) -> None:
    for attempt in range(TRIES):
        remove(engine, engine.labelled(f"{RUN}={run}"))
        left = engine.labelled(f"{RUN}={run}")
        if not left:
            return
        if attempt < TRIES - 1:
            pause(AGAIN_S)
    raise ClusterError(f"left behind: {', '.join(thing.name for thing in left)}: try `stageline emulate --clean`")


def remove(engine: Remover, things: Iterable[Thing]) -> list[str]:
    """Remove them, as far as Docker lets us; the names of those that are gone."""
    gone = []
    for thing in things:
        with contextlib.suppress(ClusterError):
            engine.remove(thing)
            gone.append(thing.name)
    return gone


def clean() -> list[str]:
    """Remove what emulations have left whose process is gone; returns the names."""
    engine = Engine()
    try:
        return remove(engine, leftovers(engine))
    finally:
        engine.close()
