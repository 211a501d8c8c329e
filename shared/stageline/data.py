"""The data plane: what travels from gateway to executor, executor to executor, and back.

A data message is a list of frames ``[header, buffer, buffer, …]``: a msgpack header, then one raw little-endian
C-contiguous buffer for every tensor in it; small ones travel in the header's frame (`stageline.packing`). The header
names its whole path (source routing), so an executor needs no plan: it runs `path[hop]` and sends the outcome to
`path[hop + 1]`, or to `reply` after the last. Where the receiver asks for it, a checksum goes before the header
(`stageline.checksum`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, Union

import msgspec

from stageline import checksum, packing
from stageline.codecs import CODECS, CODED_DTYPE
from stageline.dtypes import ITEMSIZE
from stageline.errors import RemoteProtocolError
from stageline.plan import StageKey
from stageline.wire import Decoder

DATA_VERSION = 2
MAX_RANK = 16
MAX_VALUES = 256
MAX_BATCH_ITEMS = 1024
HEADER_BYTES_PER_ITEM = 4096
MAX_HEADER_BYTES = 1 << 20
MAX_FRAME_BYTES = 1 << 31

Buffer = Union[bytes, bytearray, memoryview]


class Record(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A compact structure: fields by position, new ones only at the end with a default."""


class Tensor(Record, frozen=True):
    """A tensor whose bytes are the next buffer frame, coded as `stageline.codecs` says (empty: not coded)."""

    dtype: str
    shape: tuple[int, ...]
    codec: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor itself, not coded."""
        return prod(self.shape) * ITEMSIZE[self.dtype]


class Scalar(Record, frozen=True):
    """A symbolic int, or another plain number, that crosses a cut; it has no buffer."""

    value: bool | int | float


Value = Union[Tensor, Scalar]


class Hop(Record, frozen=True):
    """One step of a path: the stage to run and the address (as its sender reaches it) of the executor to run it.

    `codec`: what the executor before may code its outputs with (empty: nothing). `checked`: what goes there bears a
    checksum.
    """

    stage: StageKey
    address: str
    node: str
    executor: str
    codec: str = ""
    checked: bool = False


class Timing(Record, frozen=True):
    """What one stage spent on a batch, in microseconds.

    `sustained_us`: what the batch counts for where batches follow each other without end on a box with a CPU quota,
    which lets single ones pass at full speed; 0: as `compute_us`.
    """

    queue_us: int
    compute_us: int
    sustained_us: int = 0


class Activation(Record, frozen=True):
    """A batch on its way. `rows[i]` items of dimension 0 belong to request `ids[i]`.

    `batch` is unique per dispatch within the `gateway` incarnation; `deadline_ns` is Unix time by the gateway's clock
    (0: none); lower `priority` numbers run first; `level` is the quality level (0: full). `reply_checked`: what goes to
    `reply` bears a checksum. `sent_us`: when it was sent on to where it is now, by its sender's monotonic clock (0: not
    said).
    """

    version: int
    gateway: str
    batch: int
    ids: tuple[int, ...]
    rows: tuple[int, ...]
    attempt: int
    epoch: tuple[int, int]
    path: tuple[Hop, ...]
    hop: int
    reply: str
    values: tuple[Value, ...]
    priority: int = 0
    deadline_ns: int = 0
    level: int = 0
    trace: str = ""
    timings: tuple[Timing, ...] = ()
    reply_checked: bool = False
    sent_us: int = 0

    @property
    def finished(self) -> bool:
        """Whether every stage has run."""
        return self.hop >= len(self.path)


class Failure(Record, frozen=True):
    """A batch that an executor could not run; `retryable` when another executor may well succeed."""

    version: int
    gateway: str
    batch: int
    attempt: int
    code: str
    message: str
    node: str
    executor: str
    retryable: bool


class Cancel(Record, frozen=True):
    """Nobody waits for these batches any more: who has one, or gets one later, need not compute it.

    It follows the batches' path to the last executor, each of which remembers it for a while.
    """

    version: int
    gateway: str
    batches: tuple[int, ...]
    path: tuple[Hop, ...]
    hop: int = 0


Header = Union[Activation, Failure, Cancel]

_encoder = msgspec.msgpack.Encoder()
_decoder: Decoder[Activation | Failure | Cancel] = Decoder(Header, max_bytes=MAX_HEADER_BYTES)
_decode = _decoder.__call__  # found once, not with every message


class DamagedError(RemoteProtocolError):
    """A message that is not what was sent. `header` is what can be read of it, which may be wrong, too."""

    def __init__(self, header: Header | None) -> None:
        super().__init__("the checksum does not fit: the message was damaged on its way")
        self.header = header


def encode_frames(header: Header, buffers: Sequence[Buffer] = (), *, checked: bool = False) -> list[Buffer]:
    """The frames of a message; `buffers` in the order of the header's tensors. `checked`: with a checksum."""
    first = _encoder.encode(header)
    if buffers and sum([memoryview(buffer).nbytes for buffer in buffers]) <= packing.MOST_BYTES:
        first, buffers = packing.packed(first, buffers), ()
    return [checksum.prefix(first, buffers) + first if checked else first, *buffers]


def decode_frames(frames: Sequence[Any]) -> tuple[Header, Sequence[Any]]:
    """The header and the buffers of received frames (anything with the buffer protocol), checked against each other.

    Raises `RemoteProtocolError` when the header is malformed, or the buffers are not exactly those it promises, and
    `DamagedError` when there is a checksum that does not fit.
    """
    if not frames:
        raise RemoteProtocolError("an empty data message")
    first, buffers = memoryview(frames[0]), frames[1:]
    if first.nbytes and first[0] == checksum.MARK:
        first = _verified(first, buffers)
    first, rest = header_bytes(first)
    header = _decode(first)
    if header.version != DATA_VERSION:
        raise RemoteProtocolError(f"data version {header.version}, expected {DATA_VERSION}")
    if isinstance(header, Activation):
        _check(header, first.nbytes)
        return header, _checked_buffers(tensor_sizes(header.values), rest, buffers)
    if buffers or rest is not None:
        raise RemoteProtocolError("a failure or cancellation carries no buffers")
    if isinstance(header, Cancel) and not 0 <= header.hop < len(header.path):
        raise RemoteProtocolError("a hop outside the path")
    return header, buffers


def header_bytes(first: memoryview) -> tuple[memoryview, memoryview | None]:
    """The header in a message's first frame, which has no checksum, and what follows it there if that is packed."""
    if first.nbytes and first[0] == packing.MARK:
        return packing.apart(first)
    return first, None


def _verified(first: memoryview, buffers: Sequence[Any]) -> memoryview:
    """What follows the checksum in the first frame."""
    told, rest = first[: checksum.PREFIX_BYTES], first[checksum.PREFIX_BYTES :]
    if checksum.matches(told, rest, buffers):
        return rest
    try:
        readable = _decode(header_bytes(rest)[0])
    except RemoteProtocolError:
        raise DamagedError(None) from None
    raise DamagedError(readable)


def _check(header: Activation, header_bytes: int) -> None:
    items = len(header.ids)
    if not 0 < items <= MAX_BATCH_ITEMS or len(header.rows) != items or min(header.rows) < 1:
        raise RemoteProtocolError("ids and rows of a batch do not match")
    if header_bytes > HEADER_BYTES_PER_ITEM * max(items, 4):
        raise RemoteProtocolError(f"a header of {header_bytes} bytes is too large for {items} items")
    if not 0 <= header.hop <= len(header.path) or len(header.values) > MAX_VALUES:
        raise RemoteProtocolError("a hop outside the path, or too many values")


def _checked_buffers(sizes: tuple[int, ...], rest: memoryview | None, buffers: Sequence[Any]) -> Sequence[Any]:
    """The buffers of tensors of these sizes, from the `rest` of a packed frame or from frames of their own."""
    if rest is not None:
        if buffers:
            raise RemoteProtocolError("frames after a packed message")
        return packing.split(rest, sizes)
    if len(sizes) != len(buffers):
        raise RemoteProtocolError(f"{len(buffers)} buffers for {len(sizes)} tensors")
    for i, size in enumerate(sizes):
        nbytes = memoryview(buffers[i]).nbytes
        if nbytes != size or nbytes > MAX_FRAME_BYTES:
            raise RemoteProtocolError(f"tensor {i} of {len(sizes)} needs {size} bytes, got {nbytes}")
    return buffers


@lru_cache(maxsize=256)  # one batch is like the one before
def tensor_sizes(values: tuple[Value, ...]) -> tuple[int, ...]:
    """Bytes of the buffer of each tensor in a header; raises as `buffer_bytes`."""
    return tuple(buffer_bytes(v.dtype, v.shape, v.codec) for v in values if isinstance(v, Tensor))


def check_tensor(dtype: str, shape: Sequence[int], nbytes: int, codec: str = "") -> None:
    """Raise `RemoteProtocolError` unless a buffer of `nbytes` is exactly a tensor of this dtype, shape and codec."""
    expected = buffer_bytes(dtype, shape, codec)
    if expected != nbytes or nbytes > MAX_FRAME_BYTES:
        raise RemoteProtocolError(f"{dtype} of shape {tuple(shape)} needs {expected} bytes, got {nbytes}")


def buffer_bytes(dtype: str, shape: Sequence[int], codec: str = "") -> int:
    """Bytes of a tensor of this dtype, shape and codec; `RemoteProtocolError` for one that no message may hold."""
    itemsize = ITEMSIZE.get(dtype)
    if itemsize is None:
        raise RemoteProtocolError(f"dtype {dtype[:40]!r} is not allowed; one of {', '.join(ITEMSIZE)}")
    if len(shape) > MAX_RANK:
        raise RemoteProtocolError(f"a shape has at most {MAX_RANK} dimensions, this one {len(shape)}")
    if shape and min(shape) < 0:
        raise RemoteProtocolError(f"shape {tuple(shape)} is not valid: no size may be negative")
    expected = _coded_bytes(dtype, shape, codec) if codec else prod(shape) * itemsize
    if not expected and prod(size or 1 for size in shape) * itemsize >= 1 << 63:
        raise RemoteProtocolError(f"shape {tuple(shape)} is empty, but its strides exceed 64 bits")
    return expected


def _coded_bytes(dtype: str, shape: Sequence[int], name: str) -> int:
    codec = CODECS.get(name)
    if codec is None or dtype != CODED_DTYPE:
        raise RemoteProtocolError(f"{dtype} coded as {name[:40]!r}: only {CODED_DTYPE}, as {' or '.join(CODECS)}")
    return codec.nbytes(shape)
