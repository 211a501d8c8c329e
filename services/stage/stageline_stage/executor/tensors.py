"""Between data frames and torch tensors, without copies where the kernels allow it.

A kernel may choose its path by the alignment of its data, and so give other bits. torch's own allocator aligns to
64 bytes; a received buffer that is not so aligned is therefore copied once. A received buffer is never
written: stages hold only operators that do not write to their arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Union

import torch

from stageline.data import Buffer, Scalar, Tensor, Value
from stageline.dtypes import ITEMSIZE
from stageline.errors import FailedError
from stageline_stage.executor.coding import decode, encode

ALIGNMENT = 64
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ITEMSIZE}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

StageValue = Union[torch.Tensor, bool, int, float]


def received_tensor(spec: Tensor, buffer: Any) -> torch.Tensor:
    """The tensor in a received buffer whose size was checked; it may share the buffer's memory."""
    dtype = DTYPES[spec.dtype]
    view = memoryview(buffer).cast("B")
    if view.nbytes == 0:
        return torch.empty(spec.shape, dtype=dtype)
    if spec.codec:
        return decode(spec, torch.frombuffer(bytearray(view), dtype=torch.uint8))
    writable = bytearray(view) if view.readonly else view
    if dtype is torch.bool:  # any other byte than 0 and 1 would be undefined behaviour
        return torch.frombuffer(writable, dtype=torch.uint8).ne(0).view(spec.shape)
    flat = torch.frombuffer(writable, dtype=dtype)
    if flat.data_ptr() % ALIGNMENT:
        flat = flat.clone()
    return flat.view(spec.shape)


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
            specs.append(Tensor(_name(value.dtype), tuple(value.shape), "" if coded is None else codec))
            buffers.append(tensor_buffer(value if coded is None else coded))
        elif isinstance(value, bool | int | float):
            specs.append(Scalar(value))
        else:
            raise FailedError(f"the stage gave a {type(value).__name__}, which cannot be sent: import the model again")
    return tuple(specs), buffers


def tensor_buffer(value: torch.Tensor) -> memoryview:
    """The C-contiguous bytes of a CPU tensor; the view keeps the memory alive."""
    if value.numel() == 0:
        return memoryview(b"")
    dense = value.detach().contiguous() if value.requires_grad else value.contiguous()
    if value.dtype is torch.bfloat16:  # which numpy has not
        dense = dense.view(torch.int16)
    return dense.numpy().data.cast("B")


def _name(dtype: torch.dtype) -> str:
    name = NAMES.get(dtype)
    if name is None:
        raise FailedError(f"the stage gave a tensor of {dtype}, which cannot be sent: import the model again")
    return name
