"""Nodes that are slower or faster in live traffic than they were when they were measured. Pure.

Gateways tell what stages took. For each node the ratio of live to profiled seconds is followed, with weights that
fall to 1/e over `MEMORY` batches. A node whose ratio has been `FACTOR` away from what plans reckon with for
`PATIENCE_S` and `FEWEST` batches has drifted: from then on plans reckon with the ratios of it and of all others.
Smaller and shorter changes are noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stageline.messages import StageTime

from .events import Note
from .figures import FigureBook, Models
from .peers import Node

FACTOR = 1.5
MEMORY = 50
FEWEST = 30
PATIENCE_S = 10.0

FORGET_S = 600.0
"""After so long without traffic a node gets its chance as it was measured, as nothing would show that it recovered."""


class Drift:
    """One trend per node, over all of its stages. What comes of it is set on the nodes."""

    def __init__(self) -> None:
        self._trends: dict[str, _Trend] = {}

    def observe(
        self, node: Node, times: Sequence[StageTime], models: Models, book: FigureBook, now: float
    ) -> Iterator[Note]:
        """What a gateway saw of a node. Batches larger than any that was measured say nothing."""
        trend = self._trends.get(node.name)
        if trend is None or trend.node is not node:
            trend = self._trends[node.name] = _Trend(node, now)
        for time in times:
            expected = book.stage_seconds_at(time.stage, models, node.info.fingerprint, time.rows)
            if expected and math.isfinite(time.seconds) and time.seconds > 0 and time.batches > 0:
                trend.add(time, expected, now)
        if trend.batches:
            node.drift = trend.ratio
            if trend.confirmed(now):
                fields = {"node": node.name, "before": round(node.slowdown, 2), "ratio": round(trend.ratio, 2)}
                self._correct()
                yield Note("node drifted", fields)

    def forget(self, now: float) -> Iterator[Note]:
        """Take back what was said of nodes that have had no traffic for long."""
        for name, trend in list(self._trends.items()):
            if now - trend.heard >= FORGET_S:
                del self._trends[name]
                if trend.node.slowdown != 1.0:
                    yield Note("drift forgotten", {"node": name, "ratio": round(trend.node.slowdown, 2)})
                trend.node.slowdown = trend.node.drift = 1.0

    def _correct(self) -> None:
        """Of all nodes together: plans compare them, and what slows one down often slows down the others, too."""
        for trend in self._trends.values():
            if trend.batches >= FEWEST:
                trend.node.slowdown = trend.ratio


@dataclass
class _Trend:
    node: Node
    heard: float
    batches: int = 0
    _live_s: float = 0.0
    _profiled_s: float = 0.0
    _away_since: float = math.inf
    _away_batches: int = 0

    @property
    def ratio(self) -> float:
        return self._live_s / self._profiled_s

    def add(self, time: StageTime, expected_s: float, now: float) -> None:
        """`expected_s`: profiled seconds of one batch."""
        kept = math.exp(-time.batches / MEMORY)
        self._live_s = kept * self._live_s + time.seconds
        self._profiled_s = kept * self._profiled_s + time.batches * expected_s
        self.batches += time.batches
        self.heard = now

    def confirmed(self, now: float) -> bool:
        """Whether the ratio has been away from what plans reckon with for long enough."""
        if 1 / FACTOR < self.ratio / self.node.slowdown < FACTOR:
            self._away_since = math.inf
            return False
        if math.isinf(self._away_since):
            self._away_since, self._away_batches = now, self.batches
        return now - self._away_since >= PATIENCE_S and self.batches - self._away_batches >= FEWEST
