"""Caches as a block finds them in a stage: filled with the weights of other blocks.

Repeated by itself a block keeps its weights in the processor's caches, and is up to a third faster than it ever is when
a model is served. So before each run as much is read as the model's other blocks read between two turns of this one.
"""

from __future__ import annotations

import torch

from stageline.blocks import BlockSpec
from stageline.manifest import ModelManifest

MOST_BYTES = 64 << 20
"""Larger than what a core has of its caches on nearly any machine, and read within milliseconds."""

SHARE = 4
"""A fourth of the memory that is free, at most."""


class Caches:
    """Call `fill` before a run that is measured."""

    def __init__(self, nbytes: int) -> None:
        self._others = torch.ones(max(0, nbytes) // 8, dtype=torch.float64)

    def fill(self) -> None:
        """Read all of it."""
        self._others.sum()


def others_bytes(manifest: ModelManifest, block: int, free_bytes: int) -> int:
    """Bytes to read between two runs of a block on a box with so much free memory."""
    read = sum(read_bytes(other) for number, other in enumerate(manifest.blocks) if number != block)
    return min(read, MOST_BYTES, free_bytes // SHARE)


def read_bytes(block: BlockSpec) -> int:
    """Bytes of its weights that a block reads, at most.

    What is read counts for two operations (multiply, add) of four bytes; of a table of embeddings most is not read.
    """
    return min(block.weight_bytes, 2 * block.flops)
