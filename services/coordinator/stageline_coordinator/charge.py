"""What a stage is charged for in memory: one rule for the planner, and for the coordinator, which swaps nodes."""

from __future__ import annotations

from collections.abc import Iterable


def stage_bytes(weights: Iterable[int], workspaces: Iterable[int], buffer_bytes: int) -> int:
    """Bytes of a stage, from those of its blocks: all weights, the largest workspace, what is in flight.

    A tensor that several blocks share is charged to each of them, as the planner adds blocks up one by one: too
    much for a stage that holds two of these, never too little.
    """
    return sum(weights) + max(workspaces, default=0) + buffer_bytes
