"""The element types that tensors may have, on disk, on the wire and in a model's signature. No torch here."""

from __future__ import annotations

from stageline.errors import ManifestError

ITEMSIZE: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}
"""Bytes per element. The list is closed: any other name is refused."""

NUMPY_NAME: dict[str, str] = {name: name for name in ITEMSIZE if name != "bfloat16"}
"""The numpy dtype of each name; numpy has no bfloat16, whose bytes travel as they are."""


def itemsize(name: str) -> int:
    """Bytes per element of dtype `name`; `ManifestError` for a name outside the list."""
    size = ITEMSIZE.get(name)
    if size is None:
        raise ManifestError(f"dtype {name!r:.60} is not supported; use one of {', '.join(ITEMSIZE)}")
    return size
