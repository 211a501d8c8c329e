"""numpy arrays to tensor bytes and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stageline.data import Buffer
from stageline.dtypes import ITEMSIZE, NUMPY_NAME
from stageline.errors import InvalidInputError, RemoteProtocolError
from stageline.protocol import TensorSpec

Array = npt.NDArray[Any]
Tensors = tuple[tuple[TensorSpec, ...], list[Buffer]]
"""Specs, and the bytes of each."""


def to_wire(inputs: Mapping[str, npt.ArrayLike], *, copy: bool = False) -> Tensors:
    """Without `copy`, what is contiguous already is lent out. Raises `InvalidInputError` for what is no tensor."""
    if not isinstance(inputs, Mapping):
        raise InvalidInputError(f"inputs must be a mapping of names to arrays, got {type(inputs).__name__}")
    specs: list[TensorSpec] = []
    buffers: list[Buffer] = []
    for name, value in inputs.items():
        try:
            array = np.asarray(value)
        except ValueError:
            raise InvalidInputError(f"input {name!r} is no array: its rows have different lengths") from None
        if array.dtype.name not in ITEMSIZE:
            raise InvalidInputError(
                f"input {name!r} has dtype {array.dtype.name}, which models cannot take: use {', '.join(ITEMSIZE)}"
            )
        if array.ndim == 0:
            raise InvalidInputError(f"input {name!r} has no dimensions: dimension 0 must be the batch")
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        specs.append(TensorSpec(name, array.dtype.name, array.shape))
        data = plain.reshape(-1).view(np.uint8).data
        buffers.append(bytes(data) if copy else data)
    return tuple(specs), buffers


def from_wire(spec: TensorSpec, data: memoryview) -> Array:
    """The array over `data`, not copied; bfloat16, which numpy has not, becomes float32 (exactly)."""
    if spec.dtype == "bfloat16":
        wide = np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(spec.shape)
    if spec.dtype not in NUMPY_NAME:
        raise RemoteProtocolError(f"output {spec.name!r} has the unknown dtype {spec.dtype!r}")
    return np.frombuffer(data, dtype=np.dtype(NUMPY_NAME[spec.dtype]).newbyteorder("<")).reshape(spec.shape)
