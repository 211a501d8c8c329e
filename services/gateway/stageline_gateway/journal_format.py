"""The journal's file, as bytes: records of requests and outcomes, each framed by its lengths and a checksum. Pure.

A file begins with `HEAD` (magic, version, salt, CRC-32 of those). A record is `FRAME` (mark, header bytes, body bytes,
CRC-32), a msgpack header and a body of raw tensor bytes. The checksum starts from the file's random salt, so that no
client can send bytes that pass for a record. What is damaged is skipped up to the next record that is whole.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Union

from stageline.data import Buffer
from stageline.errors import RemoteProtocolError, StoreError, StoreVersionError
from stageline.protocol import Error, Infer, Result
from stageline.wire import Decoder, Message, encode

MAGIC = b"STGLJRNL"
VERSION = 1
HEAD = struct.Struct("<8sIII")
FRAME = struct.Struct("<4sIII")
MARK = b"\x93jr\xf1"


class Taken(Message, frozen=True):
    """A request was accepted; the body holds its inputs. `deadline_s` is Unix time, `number` the holder's."""

    number: int
    deadline_s: float
    infer: Infer


class Ended(Message, frozen=True):
    """Its outcome, kept until `expires_s` (Unix time): a result, whose outputs are the body, or an error."""

    number: int
    expires_s: float
    result: Result | None = None
    error: Error | None = None


class Freed(Message, frozen=True):
    """Nobody will ask for it any more."""

    number: int


Record = Union[Taken, Ended, Freed]

_decode: Decoder[Taken | Ended | Freed] = Decoder(Record)


@dataclass(frozen=True)
class Span:
    """A whole record at `start`: a frame, `header` bytes and `body` bytes."""

    start: int
    header: int
    body: int
    record: Record

    @property
    def nbytes(self) -> int:
        """With its frame."""
        return FRAME.size + self.header + self.body

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.start + self.nbytes

    @property
    def body_at(self) -> slice:
        """Where its body is."""
        return slice(self.end - self.body, self.end)


@dataclass
class Index:
    """The records that still matter, by number: requests that are not freed, and their outcomes."""

    taken: dict[int, Span] = field(default_factory=dict)
    ended: dict[int, Span] = field(default_factory=dict)
    last: int = 0
    """The largest number ever used."""
    nbytes: int = 0

    def add(self, span: Span) -> None:
        """A record was written, or read."""
        record = span.record
        self.last = max(self.last, record.number)
        if isinstance(record, Taken):
            self._put(self.taken, span)
        elif isinstance(record, Ended) and record.number in self.taken:
            self._put(self.ended, span)
        elif isinstance(record, Freed):
            for table in (self.taken, self.ended):
                old = table.pop(record.number, None)
                self.nbytes -= old.nbytes if old is not None else 0

    def spans(self) -> list[Span]:
        """In the order of the file."""
        return sorted((*self.taken.values(), *self.ended.values()), key=lambda span: span.start)

    def _put(self, table: dict[int, Span], span: Span) -> None:
        old = table.get(span.record.number)
        self.nbytes += span.nbytes - (old.nbytes if old is not None else 0)
        table[span.record.number] = span


@dataclass(frozen=True)
class Contents:
    """What a file holds: `end` is where the last whole record ends, `skipped` how many bytes before it are damaged."""

    index: Index
    end: int
    skipped: int


def head(salt: int) -> bytes:
    """How a file begins."""
    plain = HEAD.pack(MAGIC, VERSION, salt, 0)[:-4]
    return plain + struct.pack("<I", zlib.crc32(plain))


def salt_of(data: bytes | mmap.mmap) -> int:
    """The file's salt. Raises `StoreVersionError` for one of a newer version, `StoreError` for one that is damaged."""
    if len(data) < HEAD.size:
        raise StoreError("it is cut off")
    magic, version, salt, crc = HEAD.unpack_from(data, 0)
    if magic != MAGIC or crc != zlib.crc32(data[: HEAD.size - 4]):
        raise StoreError("its beginning is damaged")
    if version > VERSION:
        raise StoreVersionError(f"it has version {version}, this gateway reads up to {VERSION}")
    return int(salt)


def frame(record: Record, buffers: Sequence[Buffer], salt: int, at: int) -> tuple[Span, list[Buffer]]:
    """A record that is to begin at `at`, and the pieces to be written there in order."""
    header = encode(record)
    body = sum(memoryview(part).nbytes for part in buffers)
    crc = _checksum(salt, len(header), body, (header, *buffers))
    return Span(at, len(header), body, record), [FRAME.pack(MARK, len(header), body, crc), header, *buffers]


def read(data: bytes | mmap.mmap, salt: int) -> Contents:
    """Every whole record of a file."""
    index, end, skipped = Index(), HEAD.size, 0
    at = HEAD.size
    while 0 <= at <= len(data) - FRAME.size:
        span = span_at(data, at, salt)
        if span is None:
            at = data.find(MARK, at + 1)
            continue
        index.add(span)
        skipped += at - end
        at = end = span.end
    return Contents(index, end, skipped)


def span_at(data: bytes | mmap.mmap, at: int, salt: int) -> Span | None:
    """The record at an offset, None if there is no whole one."""
    mark, header, body, crc = FRAME.unpack_from(data, at)
    start, end = at + FRAME.size, at + FRAME.size + header + body
    if mark != MARK or end > len(data):
        return None
    with memoryview(data) as view, view[start:end] as content:
        if _checksum(salt, header, body, (content,)) != crc:
            return None
    try:
        return Span(at, header, body, _decode(data[start : start + header]))
    except RemoteProtocolError:
        return None


def _checksum(salt: int, header: int, body: int, parts: Sequence[Buffer]) -> int:
    crc = zlib.crc32(struct.pack("<II", header, body), salt)
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc
