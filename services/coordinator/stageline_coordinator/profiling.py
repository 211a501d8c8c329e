"""What blocks cost on which hardware, and whom to ask for what is not known yet. Pure.

One node per fingerprint is asked at a time, for a few blocks at a time, so that progress is visible and little
is lost with a node. A block that cannot be measured `MAX_ATTEMPTS` times is taken as one that hardware cannot run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stageline.manifest import ModelManifest
from stageline.messages import Profiled, ProfileRequest

from .events import PersistFigure
from .peers import Node

CHUNK_BLOCKS = 4
MAX_ATTEMPTS = 5
RETRY_S = 1.0
"""A block that could not be measured is tried again after 1, 2, 3, … seconds."""

ANSWER_S = 120.0
"""How long a node may take for one chunk before it counts as failed."""


@dataclass(frozen=True)
class Figure:
    """One run of a block at batch 1; `seconds` is inf where the hardware cannot run it."""

    seconds: float
    workspace_bytes: int = 0


Figures = dict[tuple[str, str], Figure]
"""By (graph, fingerprint)."""

Models = Mapping[str, tuple[str, ModelManifest]]
"""By name: SHA-256 of the manifest blob, and the manifest."""


@dataclass(frozen=True)
class _Asked:
    node: str
    manifest: str
    graphs: tuple[str, ...]
    until: float


class ProfileBook:
    """All figures, and who is being asked for more."""

    def __init__(self, figures: Mapping[tuple[str, str], Figure]) -> None:
        self._figures: Figures = dict(figures)
        self._asked: dict[str, _Asked] = {}
        self._not_before: dict[str, float] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        self._seen: set[str] = {fingerprint for _, fingerprint in figures}
        self.errors: dict[str, str] = {}
        """The last failure by fingerprint."""

    def figure(self, graph: str, fingerprint: str) -> Figure | None:
        return self._figures.get((graph, fingerprint))

    def workspace(self, graph: str) -> int:
        """The largest workspace that any hardware reported for the block, 0 if none did."""
        found = (self._figures.get((graph, fingerprint)) for fingerprint in self._seen)
        return max((figure.workspace_bytes for figure in found if figure), default=0)

    def complete(self, manifest: ModelManifest, fingerprint: str) -> bool:
        return all((block.graph, fingerprint) in self._figures for block in manifest.blocks)

    def progress(self, manifest: ModelManifest, fingerprints: Iterable[str]) -> tuple[int, int]:
        """(blocks known, blocks) on the fingerprint that is furthest."""
        known = (sum((b.graph, f) in self._figures for b in manifest.blocks) for f in fingerprints)
        return max(known, default=0), len(manifest.blocks)

    def requests(self, nodes: Sequence[Node], models: Models, now: float) -> list[tuple[Node, ProfileRequest]]:
        """Whom to ask now, marked as asked."""
        self._expire(now)
        found: list[tuple[Node, ProfileRequest]] = []
        for node in nodes:
            fingerprint = node.info.fingerprint
            if fingerprint in self._asked or now < self._not_before.get(fingerprint, 0.0):
                continue
            chunk = self._next_chunk(models, fingerprint)
            if chunk:
                sha, blocks, graphs = chunk
                self._asked[fingerprint] = _Asked(node.name, sha, graphs, now + ANSWER_S)
                found.append((node, ProfileRequest(manifest=sha, blocks=blocks)))
        return found

    def profiled(self, node: str, message: Profiled, models: Models, now: float) -> list[PersistFigure]:
        """Take an answer in; returns what is new."""
        asked = self._asked.get(message.fingerprint)
        expected = asked is not None and (asked.node, asked.manifest) == (node, message.manifest)
        manifest = next((m for sha, m in models.values() if sha == message.manifest), None)
        found: list[PersistFigure] = []
        for time in message.times if manifest else ():
            if manifest and 0 <= time.block < len(manifest.blocks) and math.isfinite(time.seconds) and time.batch >= 1:
                graph = manifest.blocks[time.block].graph
                seconds, workspace = max(0.0, time.seconds), max(0, time.workspace_bytes)
                found.append(PersistFigure(graph, message.fingerprint, time.batch, seconds, workspace))
        for row in found:
            if row.batch == 1:
                self._learn(row.graph, row.fingerprint, Figure(row.seconds, row.workspace_bytes))
        if expected and asked is not None:
            del self._asked[message.fingerprint]
            self._count_failures(asked, message.fingerprint, message.error, now)
        return found

    def lost(self, node: str) -> None:
        """`node` will not answer: its question is free for another."""
        self._asked = {f: asked for f, asked in self._asked.items() if asked.node != node}

    def _learn(self, graph: str, fingerprint: str, figure: Figure) -> None:
        self._figures[graph, fingerprint] = figure
        self._seen.add(fingerprint)

    def _next_chunk(self, models: Models, fingerprint: str) -> tuple[str, tuple[int, ...], tuple[str, ...]] | None:
        for sha, manifest in models.values():
            wanted: dict[str, int] = {}
            for i, block in enumerate(manifest.blocks):
                if (block.graph, fingerprint) not in self._figures:
                    wanted.setdefault(block.graph, i)
            if wanted:
                failing = any(self._attempts.get((graph, fingerprint)) for graph in wanted)
                chosen = list(wanted.items())[: 1 if failing else CHUNK_BLOCKS]
                return sha, tuple(i for _, i in chosen), tuple(graph for graph, _ in chosen)
        return None

    def _count_failures(self, asked: _Asked, fingerprint: str, error: str, now: float) -> None:
        left = [graph for graph in asked.graphs if (graph, fingerprint) not in self._figures]
        if left:
            self.errors[fingerprint] = error or "the worker did not measure every block that it was asked for"
        for graph in left[:1]:  # blocks are measured in order: the first one missing is the culprit
            attempts = self._attempts[graph, fingerprint] = self._attempts.get((graph, fingerprint), 0) + 1
            self._not_before[fingerprint] = now + attempts * RETRY_S
            if attempts >= MAX_ATTEMPTS:
                self._learn(graph, fingerprint, Figure(math.inf))

    def _expire(self, now: float) -> None:
        for fingerprint, asked in list(self._asked.items()):
            if now >= asked.until:
                del self._asked[fingerprint]
                self._count_failures(asked, fingerprint, f"{asked.node} did not answer within {ANSWER_S:g} s", now)
