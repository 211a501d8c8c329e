"""Small data messages in one frame: libzmq is asked once for a message, at either end, in place of once per buffer.

A packed frame is `MARK`, the header's length (4 bytes, little-endian), the header, and then the buffers one after the
other, whose sizes follow from the header's tensors. Copying that little into place costs less than another frame does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from stageline.errors import RemoteProtocolError

MARK = 0xC7
"""Begins no header, which is a msgpack array, and no message with a checksum."""

MOST_BYTES = 32 << 10
"""Of buffers in a packed frame; senders pack no more, receivers take what comes."""

_PREFIX = struct.Struct("<BI")
_PREFIX_BYTES = _PREFIX.size


def packed(header: bytes, buffers: Iterable[Any]) -> bytes:
    """The one frame of a message."""
    return b"".join((_PREFIX.pack(MARK, len(header)), header, *buffers))


def apart(frame: memoryview) -> tuple[memoryview, memoryview]:
    """The header's bytes and those of the buffers; `RemoteProtocolError` where the frame ends within the header."""
    if frame.nbytes < _PREFIX_BYTES:
        raise RemoteProtocolError("a packed message that ends before its header")
    end = _PREFIX_BYTES + _PREFIX.unpack_from(frame)[1]
    if end > frame.nbytes:
        raise RemoteProtocolError("a packed message that ends within its header")
    return frame[_PREFIX_BYTES:end], frame[end:]


def split(rest: memoryview, sizes: tuple[int, ...]) -> list[memoryview]:
    """The buffers of these sizes; `RemoteProtocolError` unless they are all there is."""
    if sizes == (rest.nbytes,):
        return [rest]
    if rest.nbytes != sum(sizes):
        raise RemoteProtocolError(f"a packed message with {rest.nbytes} bytes of tensors, not {sum(sizes)}")
    found, begin = [], 0
    for size in sizes:
        found.append(rest[begin : begin + size])
        begin += size
    return found
