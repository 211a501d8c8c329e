"""Whether a backend's outputs are those of torch, as far as the model's tolerance asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stageline.blocks import Tolerance


def deviation(given: Sequence[Any], wanted: Sequence[Any], tolerance: Tolerance, *, final: bool) -> str:
    """What differs too much, in a line; empty if nothing does.

    `final`: these are answers of the model, to which the tolerance applies number by number, |a - b| <= atol +
    rtol * |b|. What goes from stage to stage is measured by the largest number of its tensor instead: one close
    to zero among others that are not has no tolerance of its own. Integers and booleans must be equal, and so must
    dtypes and shapes.
    """
    if len(given) != len(wanted):
        return f"it gives {len(given)} outputs instead of {len(wanted)}"
    for number, (a, b) in enumerate(zip(given, wanted, strict=True)):
        found = _differs(a, b, tolerance, final)
        if found:
            return f"output {number} {found}"
    return ""


def _differs(a: Any, b: Any, tolerance: Tolerance, final: bool) -> str:
    if not isinstance(b, torch.Tensor):
        return "" if type(a) is type(b) and a == b else f"is {a!r:.40} instead of {b!r:.40}"
    if not isinstance(a, torch.Tensor) or a.dtype != b.dtype or a.shape != b.shape:
        return f"is {_kind(a)} instead of {_kind(b)}"
    if not b.dtype.is_floating_point:
        return "" if torch.equal(a, b) else "differs, which integers must not"
    if torch.equal(a, b):
        return ""
    a, b = a.double(), b.double()
    finite = torch.isfinite(b)
    if not torch.equal(finite, torch.isfinite(a)) or not torch.allclose(a[~finite], b[~finite], equal_nan=True):
        return "is not finite where it should be, or the other way round"
    a, b = a[finite], b[finite]
    size = b.abs() if final else b.abs().max() if b.numel() else b
    excess = (a - b).abs() - tolerance.atol - tolerance.rtol * size
    if not bool((excess > 0).any()):
        return ""
    worst = int(excess.argmax())
    return f"is {a[worst]:.7g} instead of {b[worst]:.7g}, which is out of tolerance"


def _kind(value: Any) -> str:
    return f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:40]
