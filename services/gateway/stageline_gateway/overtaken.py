"""Batches that were lost on the way, told by those behind them. Pure.

Links and executors keep the order of batches of one rank, so one that is as urgent as another, was sent before it over
the same path, and is not back when the other is, has been lost: a connection broke with it, or its bits were damaged.
That needs no clock. Two have to come back before it, in case it only waits in some other order than we think.
"""

from __future__ import annotations

from stageline_gateway.batching import Batch, Path

OVERTAKEN = 2

_Lane = tuple[str, ...]
"""A path by its executors, which determine it."""


class Overtaken:
    """Follows batches from their dispatch until they end in any way."""

    def __init__(self) -> None:
        self._lanes: dict[_Lane, dict[int, Batch]] = {}

    def sent(self, batch: Batch) -> None:
        """It was dispatched."""
        self._lanes.setdefault(_lane(batch.path), {})[batch.id] = batch

    def ended(self, batch: Batch) -> None:
        """It is not waited for any more."""
        lane = _lane(batch.path)
        there = self._lanes.get(lane)
        if there is not None and there.pop(batch.id, None) is not None and not there:
            del self._lanes[lane]

    def back(self, batch: Batch) -> list[Batch]:
        """Its result came, before `ended`; returns those that must have been lost."""
        lost: list[Batch] = []
        for number, other in self._lanes.get(_lane(batch.path), {}).items():
            if number >= batch.id:
                break
            if other.rank <= batch.rank:
                other.overtaken += 1
                if other.overtaken >= OVERTAKEN:
                    lost.append(other)
        return lost


def _lane(path: Path) -> _Lane:
    return tuple([replica.executor for replica in path])
