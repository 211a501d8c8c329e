"""Inputs made from a model's signature. Pure, and the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stageline.dims import dim_size
from stageline.dtypes import NUMPY_NAME
from stageline.errors import ConfigError
from stageline.plan import Signature, ValueSpec

Inputs = dict[str, npt.NDArray[Any]]

DISTINCT = 16
POOL_BYTES = 64 << 20


def make_pool(signature: Signature, batch: int, seed: int) -> list[Inputs]:
    """Several different inputs of `batch` items, to be sent in a circle; fewer when they are large.

    Floats are standard normal. Integers are 0 or 1, which every vocabulary and mask takes. Dynamic sizes other than the
    batch are nominal. Raises `ConfigError` when the model takes no such batch, or something that numpy has not.
    """
    chance = np.random.default_rng(seed)
    sizes = _sizes(signature, batch)
    pool = [_make(signature, sizes, chance)]
    room = POOL_BYTES // max(1, sum(value.nbytes for value in pool[0].values()))
    while len(pool) < min(DISTINCT, room):
        pool.append(_make(signature, sizes, chance))
    return pool


def _sizes(signature: Signature, batch: int) -> dict[str, int]:
    allowed = signature.dims.get("batch")
    if allowed is not None and not allowed.minimum <= batch <= allowed.maximum:
        raise ConfigError(f"--batch must be between {allowed.minimum} and {allowed.maximum} for this model")
    for value in signature.inputs:
        if value.dims and value.dims[0] != "batch" and value.dims[0] != batch:
            raise ConfigError(f"this model's input {value.name} has a fixed batch: use --batch {value.dims[0]}")
    return {**{name: dim.nominal for name, dim in signature.dims.items()}, "batch": batch}


def _make(signature: Signature, sizes: dict[str, int], chance: np.random.Generator) -> Inputs:
    return {value.name: _array(value, sizes, chance) for value in signature.inputs}


def _array(value: ValueSpec, sizes: dict[str, int], chance: np.random.Generator) -> npt.NDArray[Any]:
    if value.dtype not in NUMPY_NAME:
        raise ConfigError(f"cannot make input {value.name}: numpy has no {value.dtype}")
    shape = tuple(dim_size(dim, sizes) for dim in value.dims)
    if value.dtype.startswith("float"):
        return chance.standard_normal(shape).astype(value.dtype)
    return chance.integers(0, 2, shape).astype(NUMPY_NAME[value.dtype])
