"""Nodes that are slower or faster in live traffic than they were when they were measured. Pure.

Gateways tell what stages took. For each node the ratio of live to profiled seconds is followed, with weights that
fall to 1/e over `MEMORY` batches. A node whose ratio has been `FACTOR` away from what plans reckon with for
`PATIENCE_S` and `FEWEST` batches has drifted: from then on plans reckon with the ratio. Smaller and shorter changes
are noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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
        self._nodes: dict[str, _Trend] = {}

    def observe(
        self, node: Node, times: Sequence[StageTime], models: Models, book: FigureBook, now: float
    ) -> Iterator[Note]:
        """What a gateway saw of a node. Batches larger than any that was measured say nothing."""
        trend = self._nodes.get(node.name)
        if trend is None or trend.incarnation != node.hello.incarnation:
            trend = self._nodes[node.name] = _Trend(node.hello.incarnation, now)
        for time in times:
            expected = book.stage_seconds_at(time.stage, models, node.info.fingerprint, time.rows)
            if expected and math.isfinite(time.seconds) and time.seconds > 0 and time.batches > 0:
                trend.add(time, expected, now)
        if trend.heard_any:
            node.drift = trend.ratio
            if trend.confirmed(node.slowdown, now):
                fields = {"node": node.name, "before": round(node.slowdown, 2), "ratio": round(node.drift, 2)}
                node.slowdown = trend.ratio
                yield Note("node drifted", fields)

    def forget(self, nodes: Iterable[Node], now: float) -> Iterator[Note]:
        """Take back what was said of nodes that have had no traffic for long."""
        for node in nodes:
            trend = self._nodes.get(node.name)
            if trend is not None and now - trend.heard >= FORGET_S:
                del self._nodes[node.name]
                if node.slowdown != 1.0:
                    yield Note("drift forgotten", {"node": node.name, "ratio": round(node.slowdown, 2)})
                node.slowdown = node.drift = 1.0


@dataclass
class _Trend:
    incarnation: str
    heard: float
    _live_s: float = 0.0
    _profiled_s: float = 0.0
    _batches: int = 0
    _away_since: float = math.inf
    _away_batches: int = 0

    @property
    def heard_any(self) -> bool:
        return self._profiled_s > 0

    @property
    def ratio(self) -> float:
        return self._live_s / self._profiled_s

    def add(self, time: StageTime, expected_s: float, now: float) -> None:
        """`expected_s`: profiled seconds of one batch."""
        kept = math.exp(-time.batches / MEMORY)
        self._live_s = kept * self._live_s + time.seconds
        self._profiled_s = kept * self._profiled_s + time.batches * expected_s
        self._batches += time.batches
        self.heard = now

    def confirmed(self, slowdown: float, now: float) -> bool:
        """Whether the ratio has been away from `slowdown` for long enough."""
        if 1 / FACTOR < self.ratio / slowdown < FACTOR:
            self._away_since = math.inf
            return False
        if math.isinf(self._away_since):
            self._away_since, self._away_batches = now, self._batches
        return now - self._away_since >= PATIENCE_S and self._batches - self._away_batches >= FEWEST
