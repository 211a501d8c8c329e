"""Nodes that are slower or faster in live traffic than they were when they were measured. Pure.

Gateways tell what stages took. For each node the ratio of live to profiled seconds is followed, with weights that
fall to 1/e over `MEMORY` batches. A node whose ratio has been `REFINE` away from what plans reckon with for
`REFINE_PATIENCE_S` and `FEWEST` batches is refined: from then on plans reckon with the ratios of it and of all others.
Where it was `FACTOR` away for `PATIENCE_S` it has drifted, which is something to tell. Smaller and shorter changes are
noise.

A plan that is left because of such a ratio can look good again once it is left, as the ratio was that of its stages. So
that this comes to rest, each time a node is refined by less than `FACTOR` it takes twice as long until it is again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stageline.messages import StageTime

from .events import Note
from .figures import FigureBook, Models
from .peers import Node

REFINE = 1.1
FACTOR = 1.5
MEMORY = 50
FEWEST = 30
PATIENCE_S = 10.0
REFINE_PATIENCE_S, MOST_PATIENCE_S = 15.0, 320.0

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
            if event := trend.judge(now):
                fields = {"node": node.name, "before": round(node.slowdown, 2), "ratio": round(trend.ratio, 2)}
                self._correct()
                yield Note(event, fields)

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
class _Away:
    """How long a ratio has been `factor` away from what plans reckon with."""

    factor: float
    patience_s: float
    _since: float = math.inf
    _batches: int = 0

    def confirmed(self, ratio: float, batches: int, now: float) -> bool:
        """Whether that is long enough; `batches` have been seen in all."""
        if 1 / self.factor < ratio < self.factor:
            self._since = math.inf
            return False
        if math.isinf(self._since):
            self._since, self._batches = now, batches
        return now - self._since >= self.patience_s and batches - self._batches >= FEWEST


@dataclass
class _Trend:
    node: Node
    heard: float
    batches: int = 0
    _live_s: float = 0.0
    _profiled_s: float = 0.0
    _far: _Away = field(default_factory=lambda: _Away(FACTOR, PATIENCE_S))
    _near: _Away = field(default_factory=lambda: _Away(REFINE, REFINE_PATIENCE_S))

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

    def judge(self, now: float) -> str:
        """What is to be noted: that the node has drifted, that it is to be refined, or nothing ("")."""
        relative = self.ratio / self.node.slowdown
        drifted, refined = (away.confirmed(relative, self.batches, now) for away in (self._far, self._near))
        if drifted:
            self._near.patience_s = REFINE_PATIENCE_S
        elif refined:
            self._near.patience_s = min(MOST_PATIENCE_S, 2 * self._near.patience_s)
        return "node drifted" if drifted else "node refined" if refined else ""
