"""How the bytes of a fuzz input become a tree that can be changed in places, and bytes again.

A byte flipped in JSON or msgpack nearly always gives something that is no JSON or msgpack, which tests the parser of a
library. A changed tree reaches our own checks. `mutated` does both.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from stageline.data import header_bytes
from stageline.packing import packed
from stageline.protocol import PREFIX
from stageline_gateway import journal_format


@dataclass(frozen=True)
class Form:
    """`parse` may raise anything for what is not of this form, `pack` for a tree that the form cannot hold."""

    parse: Callable[[bytes], Any]
    pack: Callable[[Any], bytes]


_unpack, _pack = msgspec.msgpack.decode, msgspec.msgpack.encode


def _parse_frames(data: bytes) -> Any:
    """The header, the rest of its frame where that is packed (else None), further frames."""
    first, *buffers = _unpack(data, type=list[bytes])
    header, rest = header_bytes(memoryview(first))
    return [_unpack(header), None if rest is None else bytes(rest), *buffers]


def _pack_frames(tree: Any) -> bytes:
    header, rest, *buffers = tree
    return _pack([_pack(header) if rest is None else packed(_pack(header), [rest]), *buffers])


def _parse_messages(data: bytes) -> Any:
    return [[sender, _unpack(message)] for sender, message in _unpack(data, type=list[tuple[int, bytes]])]


def _parse_stream(data: bytes) -> Any:
    found: list[Any] = [data[0]]
    rest = data[1:]
    while rest:
        header, body = PREFIX.unpack_from(rest)
        start, rest = rest[PREFIX.size : PREFIX.size + header + body], rest[PREFIX.size + header + body :]
        found.append([_unpack(start[:header]), start[header:]])
    return found


def _pack_stream(tree: Any) -> bytes:
    pieces = [bytes([tree[0] % 256])]
    for header, body in tree[1:]:
        packed = _pack(header)
        pieces += [PREFIX.pack(len(packed), len(body)), packed, body]
    return b"".join(pieces)


def _parse_tensor(data: bytes) -> Any:
    start = 8 + int.from_bytes(data[:8], "little")
    return [json.loads(data[8:start]), data[start:]]


def _pack_tensor(tree: Any) -> bytes:
    header = json.dumps(tree[0]).encode()
    header += b" " * (-(8 + len(header)) % 64)
    return len(header).to_bytes(8, "little") + header + tree[1]


def _parse_journal(data: bytes) -> Any:
    _, version, salt, _ = journal_format.HEAD.unpack_from(data)
    found: list[Any] = [version, salt]
    for span in journal_format.read(data, salt).index.spans():
        start = span.start + journal_format.FRAME.size
        found.append([_unpack(data[start : start + span.header]), data[span.body_at]])
    return found


def _pack_journal(tree: Any) -> bytes:
    """With checksums that hold, whatever the records say."""
    packed = [(_pack(record), body) for record, body in tree[2:]]
    plain = journal_format.HEAD.pack(journal_format.MAGIC, tree[0], tree[1], 0)[:-4]
    pieces = [plain, struct.pack("<I", zlib.crc32(plain))]
    for header, body in packed:
        crc = zlib.crc32(header + body, zlib.crc32(struct.pack("<II", len(header), len(body)), tree[1]))
        pieces += [journal_format.FRAME.pack(journal_format.MARK, len(header), len(body), crc), header, body]
    return b"".join(pieces)


JSON = Form(json.loads, lambda tree: json.dumps(tree).encode())
PARTS = Form(
    lambda data: [json.loads(part) for part in data.split(b"\0")],
    lambda tree: b"\0".join(map(JSON.pack, tree)),
)
"""Several JSON documents, with NUL between them."""
TAGGED = Form(lambda data: [data[0], _unpack(data[1:])], lambda tree: bytes([tree[0] % 256]) + _pack(tree[1]))
"""A byte that says which decoder, and a message."""
FRAMES = Form(_parse_frames, _pack_frames)
"""A msgpack header and buffers."""
MESSAGES = Form(_parse_messages, lambda tree: _pack([(sender, _pack(message)) for sender, message in tree]))
"""Messages, each with the number of its sender."""
TENSOR = Form(_parse_tensor, _pack_tensor)
"""A safetensors file: its JSON header and the elements; the length before them is right."""
JOURNAL = Form(_parse_journal, _pack_journal)
"""Version, salt, and records with their bodies."""
STREAM = Form(_parse_stream, _pack_stream)
"""A byte that says how the stream is cut, and frames of the client protocol."""

_EDGES = (0, 1, -1, 2, 7, 15, 16, 17, 255, 256, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 53) + 1, 1 << 62, (1 << 63) - 1)
_ODD: tuple[Any, ...] = (
    *_EDGES, -(1 << 63), 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 200, 0.0, -0.0, 0.5, 1e308, -1e-308, float("inf"),
    float("nan"), True, False, None, "", "batch", "\x00", "\ud800", "é" * 50, "x" * 300, "ab" * 32, "none", "int8",
    "float32", b"", b"\x00" * 8, [], {}, [[]], {"": None}, "9" * 30, "batch*batch", "../x", "2-3", "a.b",
)  # fmt: skip


def mutated(form: Form | None, data: bytes, rng: Random, bytewise: Callable[[bytes], bytes]) -> bytes:
    """A neighbour of `data`: its tree with a few places changed, or what `bytewise` makes of it."""
    if form is None or rng.random() < 0.2:
        return bytewise(data)
    try:
        holder = [form.parse(data)]
        for _ in range(rng.choice((1, 1, 2, 4))):
            _change(holder, rng)
        return form.pack(holder[0])
    except Exception:  # neither a parser's nor a packer's business here
        return bytewise(data)


def flipped(data: bytes, rng: Random) -> bytes:
    """A plain change of bytes, for those who have no better one."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(changed) + 1)
        length = rng.choice((0, 1, 1, 4))
        changed[place : place + length] = rng.randbytes(rng.choice((0, length, length, 1)))
    return bytes(changed)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in the tree."""
    found: list[tuple[Any, Any]] = []
    pending = [tree]
    while pending:
        one = pending.pop()
        if isinstance(one, (list, dict)):
            keys = range(len(one)) if isinstance(one, list) else one
            found += [(one, key) for key in keys]
            pending += [one[key] for key in keys]
    return found


def _change(holder: list[Any], rng: Random) -> None:
    places = _places(holder)
    container, key = rng.choice(places)
    other = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0 and container is not holder:
        del container[key]
    elif kind == 1:
        container[key] = _copy(other[0][other[1]])
    elif kind == 2 and isinstance(container, list) and container is not holder:
        container.insert(key, _copy(rng.choice((container[key], other[0][other[1]]))))
    elif kind == 3 and isinstance(container, dict):
        container[rng.choice((str(other[1]), "odd", ""))] = _copy(other[0][other[1]])
    elif kind == 4:
        container[key] = _wrapped(container[key], rng)
    else:
        container[key] = _nearby(container[key], rng)


def _nearby(value: Any, rng: Random) -> Any:
    if rng.random() < 0.5:
        return _copy(rng.choice(_ODD))
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return rng.choice((value + 1, value - 1, -value, value * 2, value / 2, rng.choice(_EDGES)))
    if isinstance(value, str):
        place = rng.randrange(len(value) + 1)
        return value[:place] + rng.choice(("", "0", "-", "é", ".", "\n", value)) + value[place + rng.randrange(2) :]
    if isinstance(value, bytes):
        return flipped(value, rng)
    return _copy(rng.choice(_ODD))


def _wrapped(value: Any, rng: Random) -> Any:
    for _ in range(rng.choice((1, 1, 2, 9, 500))):
        value = [value] if rng.random() < 0.7 else {"ref": value}
    return value


def _copy(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_copy(one) for one in tree]
    return {key: _copy(one) for key, one in tree.items()} if isinstance(tree, dict) else tree
