"""Activations made smaller for a slow link, and back: see `stageline.codecs` for the bytes.

Symmetric linear quantisation per item as in Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (CVPR 2018), with zero point 0.
"""

from __future__ import annotations

import torch

from stageline.codecs import CODECS, CODED_DTYPE, MIN_CODED_BYTES
from stageline.data import Tensor

_DTYPE = getattr(torch, CODED_DTYPE)
_LEVELS = 127
_FP16 = torch.finfo(torch.float16)


def encode(value: torch.Tensor, codec: str) -> torch.Tensor | None:
    """The coded bytes of a CPU tensor; None if it has to travel as it is.

    That is so for other dtypes than float32, small tensors, an unknown codec, and values that the codec cannot hold.
    """
    if codec not in CODECS or value.dtype is not _DTYPE or value.nbytes < MIN_CODED_BYTES:
        return None
    return _to_fp16(value) if codec == "fp16" else _to_int8(value)


def decode(spec: Tensor, data: torch.Tensor) -> torch.Tensor:
    """The float32 tensor in received bytes, whose number was checked and is not 0."""
    if spec.codec == "fp16":
        return data.view(torch.float16).to(_DTYPE).view(spec.shape)
    items = spec.shape[0] if spec.shape else 1
    scales = data[: 4 * items].view(_DTYPE)
    return (data[4 * items :].view(torch.int8).view(items, -1) * scales[:, None]).view(spec.shape)


def _to_fp16(value: torch.Tensor) -> torch.Tensor | None:
    largest = _largest(_items(value))
    held = (largest >= _FP16.tiny) & (largest <= _FP16.max) | (largest == 0)  # not a number: neither
    return value.contiguous().to(torch.float16).view(-1).view(torch.uint8) if bool(held.all()) else None


def _to_int8(value: torch.Tensor) -> torch.Tensor | None:
    rows = _items(value)
    items = len(rows)
    scales = _largest(rows) / _LEVELS
    if not bool(torch.isfinite(scales).all()):
        return None
    coded = torch.empty(items * 4 + value.numel(), dtype=torch.uint8)
    coded[: 4 * items].view(_DTYPE).copy_(scales)
    smallest = torch.finfo(_DTYPE).tiny  # all zero, or too small to divide by: q is 0, or cut off at 127
    q = rows / scales.clamp_min(smallest)[:, None]
    coded[4 * items :].view(torch.int8).view(items, -1).copy_(q.round_().clamp_(-_LEVELS, _LEVELS))
    return coded


def _items(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(value.shape[0] if value.dim() else 1, -1)


def _largest(rows: torch.Tensor) -> torch.Tensor:
    """`[item]`: its largest magnitude; not a number where one of its values is none."""
    return torch.maximum(rows.amax(1), -rows.amin(1))  # vector_norm and aminmax take 20 times longer
