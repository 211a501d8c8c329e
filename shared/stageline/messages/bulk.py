"""Blobs, content-addressed, whose chunks travel as a second frame; and probes of a link, whose ballast does."""

from __future__ import annotations

from stageline.wire import Message


class BlobGet(Message, frozen=True):
    """Ask for bytes half-open [offset, offset + length) of a blob."""

    id: int
    sha256: str
    offset: int
    length: int


class BlobChunk(Message, frozen=True):
    """The bytes asked for are the second frame; `total` is the blob's size."""

    id: int
    sha256: str
    offset: int
    total: int


class BlobQuery(Message, frozen=True):
    """Which of these do you lack, and how much of each have you (bytes of a broken-off upload)?"""

    id: int
    sha256: tuple[str, ...]


class BlobStatus(Message, frozen=True):
    """Those that are missing, with the offset to go on from."""

    id: int
    missing: dict[str, int]


class BlobPut(Message, frozen=True):
    """The second frame holds bytes from `offset` of a blob of `total` bytes."""

    id: int
    sha256: str
    offset: int
    total: int


class BlobAck(Message, frozen=True):
    """Written up to `received`; `complete` once the hash was verified and the blob is in place."""

    id: int
    sha256: str
    received: int
    complete: bool = False


class Probe(Message, frozen=True):
    """Answer at once, with `want` bytes of ballast; what the second frame holds is ballast too."""

    id: int
    want: int = 0


class ProbeReply(Message, frozen=True):
    """The answer to `Probe`; the second frame has as many bytes as were wanted."""

    id: int
