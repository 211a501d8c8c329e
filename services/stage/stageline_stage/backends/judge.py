"""Whether a backend's outputs are those of torch, as far as the model's tolerance asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stageline.blocks import Tolerance


def deviation(given: Sequence[Any], wanted: Sequence[Any], tolerance: Tolerance) -> str:
    """What differs too much, in a line; empty if nothing does.

    Each item of a tensor's first axis, the batch's, is measured by its largest number: |a - b| <= atol + rtol * max|b|.
    So one close to zero among others that are not has no tolerance of its own, and no item is excused by larger ones
    of other requests. Integers and booleans must be equal, and so must dtypes and shapes.
    """
    if len(given) != len(wanted):
        return f"it gives {len(given)} outputs instead of {len(wanted)}"
    for number, (a, b) in enumerate(zip(given, wanted, strict=True)):
        found = _differs(a, b, tolerance)
        if found:
            return f"output {number} {found}"
    return ""


def _differs(a: Any, b: Any, tolerance: Tolerance) -> str:
    if not isinstance(b, torch.Tensor):
        return "" if type(a) is type(b) and a == b else f"is {a!r:.40} instead of {b!r:.40}"
    if not isinstance(a, torch.Tensor) or a.dtype != b.dtype or a.shape != b.shape:
        return f"is {_kind(a)} instead of {_kind(b)}"
    if not b.dtype.is_floating_point:
        return "" if torch.equal(a, b) else "differs, which integers must not"
    if torch.equal(a, b):
        return ""
    a, b = _by_item(a), _by_item(b)
    finite = torch.isfinite(b)
    if not torch.equal(finite, torch.isfinite(a)) or not torch.allclose(a[~finite], b[~finite], equal_nan=True):
        return "is not finite where it should be, or the other way round"
    a, b = a.where(finite, 0.0), b.where(finite, 0.0)
    size = b.abs().amax(dim=1, keepdim=True)
    excess = (a - b).abs() - tolerance.atol - tolerance.rtol * size
    worst = int(excess.argmax())
    if excess.flatten()[worst] <= 0:
        return ""
    there = f"among numbers up to {size[worst // b.shape[1], 0]:.7g}"
    return f"is {a.flatten()[worst]:.7g} instead of {b.flatten()[worst]:.7g} {there}, which is out of tolerance"


def _by_item(value: torch.Tensor) -> torch.Tensor:
    """A row for each item of the first axis."""
    return value.double().reshape(value.shape[0] if value.dim() else 1, -1)


def _kind(value: Any) -> str:
    return f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:40]
