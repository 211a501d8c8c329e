"""Between data frames and torch tensors, without copies where the kernels allow it.

A kernel may choose its path by the alignment of its data, and so give other bits. torch's own allocator aligns to
64 bytes; a received buffer that is not so aligned is therefore copied once. A received buffer is never
written: stages hold only operators that do not write to their arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Union

import numpy as np
import torch

from stageline.data import Buffer, Scalar, Tensor, Value
from stageline.dtypes import ITEMSIZE, NUMPY_NAME
from stageline.errors import FailedError
from stageline_stage.executor.coding import decode, encode

ALIGNMENT = 64
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ITEMSIZE}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

_PLAIN: dict[str, np.dtype[Any]] = {name: np.dtype(known) for name, known in NUMPY_NAME.items() if name != "bool"}
"""Any bytes are values of these, and numpy makes an array of a shape in one call, where torch needs two."""

StageValue = Union[torch.Tensor, bool, int, float]


def received_tensor(spec: Tensor, buffer: Any) -> torch.Tensor:
    """The tensor in a received buffer whose size was checked; it may share the buffer's memory."""
    plain = _PLAIN.get(spec.dtype)
    view = memoryview(buffer)
    if plain is None or spec.codec or not view.nbytes:
        return _received_otherwise(spec, view.cast("B"))
    value = torch.from_numpy(np.ndarray(spec.shape, plain, bytearray(view) if view.readonly else view))
    return value.clone() if value.data_ptr() % ALIGNMENT else value


def _received_otherwise(spec: Tensor, view: memoryview) -> torch.Tensor:
    dtype = DTYPES[spec.dtype]
    if not view.nbytes:
        return torch.empty(spec.shape, dtype=dtype)
    if spec.codec:
        return decode(spec, torch.frombuffer(bytearray(view), dtype=torch.uint8))
    writable = bytearray(view) if view.readonly else view
    if dtype is torch.bool:  # any other byte than 0 and 1 would be undefined behaviour
        return torch.frombuffer(writable, dtype=torch.uint8).ne(0).view(spec.shape)
    flat = torch.frombuffer(writable, dtype=dtype)
    return (flat.clone() if flat.data_ptr() % ALIGNMENT else flat).view(spec.shape)


def received_values(specs: Iterable[Value], buffers: Iterable[Any]) -> list[StageValue]:
    """The inputs of a stage from a header's values and its buffers."""
    remaining = iter(buffers)
    return [received_tensor(spec, next(remaining)) if isinstance(spec, Tensor) else spec.value for spec in specs]


def outgoing_values(values: Sequence[Any], codec: str = "") -> tuple[tuple[Value, ...], list[Buffer]]:
    """Header values and buffers of a stage's outputs, which must be on the CPU; the buffers share their memory.

    Tensors that `codec` can hold are coded with it.
    Raises `FailedError` for an output that the wire does not carry.
    """
    specs: list[Value] = []
    buffers: list[Buffer] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            coded = encode(value, codec) if codec else None
            name = NAMES.get(value.dtype) or _refused(f"tensor of {value.dtype}")
            specs.append(Tensor(name, tuple(value.shape), "" if coded is None else codec))
            buffers.append(tensor_buffer(value if coded is None else coded))
        elif isinstance(value, bool | int | float):
            specs.append(Scalar(value))
        else:
            _refused(type(value).__name__)
    return tuple(specs), buffers


def tensor_buffer(value: torch.Tensor) -> memoryview:
    """The C-contiguous bytes of a CPU tensor; the view keeps the memory alive."""
    if value.numel() == 0:
        return memoryview(b"")
    dense = value.detach().contiguous() if value.requires_grad else value.contiguous()
    if value.dtype is torch.bfloat16:  # which numpy has not
        dense = dense.view(torch.int16)
    return dense.numpy().data.cast("B")


def _refused(what: str) -> NoReturn:
    raise FailedError(f"the stage gave a {what}, which cannot be sent: import the model again")
