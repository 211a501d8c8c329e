"""What stages take in live traffic, summed up for the coordinator. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from stageline.data import Timing
from stageline.messages import StageTime
from stageline.plan import StageKey
from stageline_gateway.batching import Batch
from stageline_gateway.signature import BATCH

MOST = 512
"""Kinds of batches (node, stage, items) kept until they are asked for."""


class Observed:
    """Compute seconds by node, stage and batch size since they were last taken."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, StageKey, int], tuple[int, float]] = {}

    def add(self, batch: Batch, timings: Sequence[Timing]) -> None:
        """A batch came back. Only one of nominal sizes can be compared with what was measured before."""
        dims = batch.model.signature.dims
        if len(timings) != len(batch.path) or any(
            batch.sizes.get(name, dim.nominal) != dim.nominal for name, dim in dims.items() if name != BATCH
        ):
            return
        for stage, replica, timing in zip(batch.model.stages, batch.path, timings, strict=True):
            key = (replica.node, batch.model.key(stage), sum(batch.rows))
            if key in self._sums or len(self._sums) < MOST:
                batches, seconds = self._sums.get(key, (0, 0.0))
                self._sums[key] = (batches + 1, seconds + (timing.sustained_us or timing.compute_us) / 1e6)

    def take(self) -> tuple[StageTime, ...]:
        """What was added since the last time."""
        sums, self._sums = self._sums, {}
        return tuple(
            StageTime(node=node, stage=stage, rows=rows, batches=batches, seconds=seconds)
            for (node, stage, rows), (batches, seconds) in sums.items()
        )
