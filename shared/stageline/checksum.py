"""Checksums of data messages: XXH3-64, against bits that flip between two hosts unseen by TCP's 16-bit sum.

XXH3 is not cryptographic: it is there for accidents. A message with a checksum begins with `MARK`, which begins no
msgpack message, and 8 bytes, big-endian, over the header and all buffers in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

MARK = 0xC1
"""The one byte that msgpack never uses."""

PREFIX_BYTES = 9

Checksum = Literal["auto", "always", "never"]
"""What a receiver asks of its senders. auto: a checksum on what may come from another host."""


def prefix(header: bytes, buffers: Iterable[Any]) -> bytes:
    """What goes before the header."""
    return bytes((MARK,)) + _digest(header, buffers)


def matches(told: memoryview, header: memoryview, buffers: Iterable[Any]) -> bool:
    """Whether the message is as it was sent; `told` is its prefix."""
    return bytes(told[1:]) == _digest(header, buffers)


def _digest(header: bytes | memoryview, buffers: Iterable[Any]) -> bytes:
    import xxhash  # here: most processes never need it

    hasher = xxhash.xxh3_64(header)
    for buffer in buffers:
        hasher.update(memoryview(buffer))
    digest: bytes = hasher.digest()
    return digest
