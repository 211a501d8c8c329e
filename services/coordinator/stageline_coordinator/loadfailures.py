"""Models that a worker failed to load, and for how long plans do without it for them. Pure; times are seconds.

A failure hinders what is new, not what runs: a model that is served stays as it is meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stageline.errors import BlobCorruptError, BlobMissingError
from stageline.plan import StageKey

if TYPE_CHECKING:
    from .peers import Node

BACKOFF_S, MAX_BACKOFF_S = 1.0, 60.0
"""Whoever fails to load is left out for 1, 2, 4, … seconds."""

MENDED_BY_ADDING = (BlobCorruptError.code, BlobMissingError.code)


def pause_s(failures: int) -> float:
    """How long to wait after one more failure than so many in a row."""
    return min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(failures, 16))


@dataclass(frozen=True)
class Failure:
    """The last one of a model. `on`: plans heed it; `had`: what the worker had loaded, which is no proof of success."""

    stage: StageKey
    code: str
    message: str
    times: int
    until: float
    had: frozenset[StageKey]
    on: bool = True


class LoadFailures:
    """Of one worker, by the manifest of the model."""

    def __init__(self) -> None:
        self._found: dict[str, Failure] = {}
        self.now: frozenset[str] = frozenset()
        """Manifests of the models that plans do without the worker for."""

    def add(self, stage: StageKey, code: str, message: str, loaded: Iterable[StageKey], now: float) -> None:
        """It failed to load `stage` while it had `loaded`."""
        before = self._found.get(stage.manifest)
        times = before.times if before else 0
        until = now + pause_s(times)
        self._found[stage.manifest] = Failure(stage, code, message, times + 1, until, frozenset(loaded))
        self._note()

    def loaded(self, stages: Collection[StageKey]) -> None:
        """It has these loaded; where that is more than before a failure, it can load the model."""
        for key in stages:
            failure = self._found.get(key.manifest)
            if failure is not None and key not in failure.had:
                self.forget(key.manifest)

    def retry(self, now: float) -> None:
        """Plans may use it again for the models whose time is over."""
        due = {sha: replace(one, on=False) for sha, one in self._found.items() if one.on and now >= one.until}
        if due:
            self._found.update(due)
            self._note()

    def forget(self, sha: str) -> None:
        """The model is gone, or was mended."""
        if self._found.pop(sha, None) is not None:
            self._note()

    def last(self, sha: str) -> Failure | None:
        """What went wrong with the model last, if it has not been loaded since."""
        return self._found.get(sha)

    def _note(self) -> None:
        self.now = frozenset(sha for sha, one in self._found.items() if one.on)


def described(name: str, sha: str, nodes: Iterable[Node]) -> str:
    """What went wrong with the model on these nodes, equal causes once, and what to do; empty if nothing did."""
    causes: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        if failure := node.load_failures.last(sha):
            where = f"{node.name} (blocks {failure.stage.start}-{failure.stage.end})"
            causes.setdefault((failure.code, failure.message), []).append(where)
    if not causes:
        return ""
    told = [f"{name} failed to load on {', '.join(where)}: {message}" for (_, message), where in causes.items()]
    if any(code in MENDED_BY_ADDING for code, _ in causes):
        told.append(f"add {name} again with `stageline models add`")
    return "; ".join(told)


def forget(nodes: Mapping[str, Node], sha: str) -> None:
    """The model is gone, or was mended: nobody's failures count any more."""
    for node in nodes.values():
        node.load_failures.forget(sha)
