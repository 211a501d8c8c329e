"""Weights that several blocks of a model have in common, as tables over runs of blocks."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from .parts import Model

Ints = NDArray[np.int64]


def weight_table(model: Model, held: Collection[int] = ()) -> Ints:
    """`[a, b]`: bytes of weights that a node which holds the blocks `held` has to take for blocks [a, b) as well.

    0 where a >= b. It never falls when the run grows: a block has at least the bytes that it shares.
    """
    size = len(model.blocks)
    new = np.array([0 if b in held else block.weight_bytes for b, block in enumerate(model.blocks)], dtype=np.int64)
    found = _sums(new)
    for one in model.shared:
        mine = np.array([b in one.blocks and b not in held for b in range(size)], dtype=np.int64)
        there = sum(b in held for b in one.blocks)
        found -= one.bytes * np.maximum(_sums(mine) - (0 if there else 1), 0)
    return found


def _sums(each: Ints) -> Ints:
    total = np.concatenate([[0], np.cumsum(each)])
    found: Ints = np.maximum(total[None, :] - total[:, None], 0)
    return found
