"""What a stage is charged for in memory: one rule for the planner, and for the coordinator, which swaps nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def stage_bytes(weights: int, workspaces: Iterable[int], buffer_bytes: int) -> int:
    """Bytes of a stage: of all its weights (each once), the largest workspace of its blocks, what is in flight."""
    return weights + max(workspaces, default=0) + buffer_bytes


def counted_again(shared: Iterable[tuple[Collection[int], int]], blocks: Collection[int]) -> int:
    """Bytes that the sum over these blocks counts more than once: `shared` are blocks and the bytes common to them."""
    return sum(size * max(0, sum(block in blocks for block in holders) - 1) for holders, size in shared)
