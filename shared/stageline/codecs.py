"""How an activation may be made smaller for a slow link between two workers. Names and sizes; no torch here.

A codec is lossy, so a plan uses one only where the model's tolerance allows its error, and never towards clients. Only
float32 tensors are coded; a tensor with an item that a codec cannot hold travels as it is: not finite, or for fp16 with
a largest magnitude above 65504 or below 2^-14.

=====  ===============================================================================  ==========================
name   bytes, little-endian, C order                                                    error / largest |x| of item
=====  ===============================================================================  ==========================
fp16   IEEE 754 binary16 per element                                                    2^-11
int8   one float32 scale per item (dimension 0), then one int8 per element: scale x q   1/254
=====  ===============================================================================  ==========================

int8 is symmetric linear quantisation with one scale per item, its largest |x| / 127.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

CODED_DTYPE = "float32"
MIN_CODED_BYTES = 1024
"""Smaller tensors (masks, positions) gain nothing."""


@dataclass(frozen=True)
class Codec:
    """`ratio`: bytes on the wire by bytes, of large tensors. `error`: of the largest magnitude of the item."""

    name: str
    element_bytes: int
    item_bytes: int
    error: float

    @property
    def ratio(self) -> float:
        """Bytes on the wire per byte of a large float32 tensor."""
        return self.element_bytes / 4

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a coded tensor of that shape; a scalar is one item."""
        items = shape[0] if shape else 1
        return prod(shape) * self.element_bytes + items * self.item_bytes


CODECS: dict[str, Codec] = {
    codec.name: codec for codec in (Codec("fp16", 2, 0, 2.0**-11), Codec("int8", 1, 4, 1 / 254))
}
