"""What is known of the cost of blocks: seconds and bytes by block, hardware and batch size. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from stageline.manifest import ModelManifest
from stageline.plan import StageKey

from .limits import MAX_BYTES, SECONDS


@dataclass(frozen=True)
class Figure:
    """One run of a block at some batch size; `seconds` is inf where the hardware cannot run it, `error` relative."""

    seconds: float
    workspace_bytes: int = 0
    error: float = 0.0


def is_sound(figure: Figure) -> bool:
    """Whether the planner takes it: stored ones may be from before its limits, or damaged."""
    numbers = (figure.seconds, figure.workspace_bytes, figure.error)
    if not all(isinstance(one, int | float) and one >= 0 for one in numbers):
        return False
    most = SECONDS.most >= figure.seconds >= SECONDS.least or figure.seconds == 0 or math.isinf(figure.seconds)
    return most and figure.workspace_bytes <= MAX_BYTES and math.isfinite(figure.error)


class FigureKey(NamedTuple):
    """What a figure is of: a block's graph on hardware of this fingerprint."""

    graph: str
    fingerprint: str
    batch: int = 1


Figures = Mapping[FigureKey, Figure]

Models = Mapping[str, tuple[str, ModelManifest]]
"""By name: SHA-256 of the manifest blob, and the manifest."""


@dataclass(frozen=True)
class Coverage:
    """Blocks known at batch 1 of those there are, their largest relative error, batch sizes known for all of them."""

    blocks: int
    total: int
    error: float
    batches: tuple[int, ...]


class FigureBook:
    """All figures."""

    def __init__(self, figures: Figures) -> None:
        self._graphs: dict[str, dict[tuple[str, int], Figure]] = {}
        self.learned = 0
        """How many figures were taken in."""
        for key, figure in figures.items():
            self.learn(key, figure)

    def learn(self, key: FigureKey, figure: Figure) -> None:
        """Take a figure in; it replaces an older one."""
        self._graphs.setdefault(key.graph, {})[key.fingerprint, key.batch] = figure
        self.learned += 1

    @property
    def figures(self) -> dict[FigureKey, Figure]:
        """All of them."""
        return {
            FigureKey(graph, *key): figure for graph, known in self._graphs.items() for key, figure in known.items()
        }

    def figure(self, graph: str, fingerprint: str, batch: int = 1) -> Figure | None:
        return self._graphs.get(graph, {}).get((fingerprint, batch))

    def seconds_at(self, graph: str, fingerprint: str, items: int) -> float | None:
        """Seconds of a batch, interpolated between measured sizes; None for one that is larger than all of these."""
        known = self._finite(graph, fingerprint)
        above = next((batch for batch in sorted(known) if batch >= items), None)
        if above is None or above == items:
            return known[items].seconds if above is not None else None
        below = max((batch for batch in known if batch < items), default=None)
        if below is None:
            return None
        low, high = known[below].seconds, known[above].seconds
        return low + (high - low) * (items - below) / (above - below)

    def stage_seconds_at(self, stage: StageKey, models: Models, fingerprint: str, items: int) -> float | None:
        """The same for all blocks of a stage of a registered model."""
        manifest = next((m for sha, m in models.values() if sha == stage.manifest), None)
        blocks = manifest.blocks[stage.start : stage.end] if manifest else ()
        found = [self.seconds_at(block.graph, fingerprint, items) for block in blocks]
        return math.fsum(s for s in found if s is not None) if found and None not in found else None

    def workspace(self, graph: str, items: int) -> int:
        """The largest workspace that any hardware is known or expected to need for a batch, 0 if none was measured.

        Expected is in proportion to the largest batch that was measured there.
        """
        largest = 0
        for fingerprint in {fingerprint for fingerprint, _ in self._graphs.get(graph, {})}:
            known = self._finite(graph, fingerprint)
            if known:
                batch = max(known)
                largest = max(largest, math.ceil(known[batch].workspace_bytes * max(1.0, items / batch)))
        return largest

    def complete(self, manifest: ModelManifest, fingerprint: str, batch: int = 1) -> bool:
        return all(self.figure(block.graph, fingerprint, batch) for block in manifest.blocks)

    def progress(self, manifest: ModelManifest, fingerprints: Iterable[str]) -> tuple[int, int]:
        """(blocks known, blocks) on the fingerprint that is furthest."""
        known = (sum(self.figure(b.graph, f) is not None for b in manifest.blocks) for f in fingerprints)
        return max(known, default=0), len(manifest.blocks)

    def coverage(self, models: Models, fingerprint: str) -> Coverage:
        """How well the blocks of all models are known on that hardware."""
        blocks = {block.graph for _, manifest in models.values() for block in manifest.blocks}
        known = [figure for graph in blocks if (figure := self.figure(graph, fingerprint))]
        manifests = [manifest for _, manifest in models.values()]
        sizes = sorted({batch for graph in blocks for f, batch in self._graphs.get(graph, {}) if f == fingerprint})
        full = tuple(b for b in sizes if all(self.complete(m, fingerprint, min(b, most_items(m))) for m in manifests))
        return Coverage(len(known), len(blocks), max((figure.error for figure in known), default=0.0), full)

    def _finite(self, graph: str, fingerprint: str) -> dict[int, Figure]:
        known = self._graphs.get(graph, {})
        return {batch: one for (f, batch), one in known.items() if f == fingerprint and math.isfinite(one.seconds)}


def most_items(manifest: ModelManifest) -> int:
    """The largest batch that the model takes."""
    return manifest.dims["batch"].max if "batch" in manifest.dims else 1
