"""The native client protocol, version 1: what a client and a gateway say to each other over TCP.

A frame is ``u32 header length | u32 body length | header | body``, both lengths big-endian. The header is a msgpack map
whose key ``t`` names the message; the body holds the raw bytes of the header's tensors, in the header's order,
little-endian and C-contiguous, without padding. Only `Infer` and `Result` have a body. The full text, with the rules
for other implementations, is docs/protocol.md.

The server speaks first (`ServerHello`), the client answers with `ClientHello`, then both may send at any time: a
client need not wait for one answer before it asks again, and answers come in any order, matched by `id`. Unknown
fields are ignored, so that a newer peer may say more. A frame that breaks a limit, or a header that is no message of
the table, is answered with `Error` (id 0) and the connection is closed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod
from typing import Annotated, Union

import msgspec

from stageline.data import MAX_VALUES, Buffer, check_tensor
from stageline.dtypes import ITEMSIZE
from stageline.errors import InvalidInputError, LocalProtocolError, RemoteProtocolError
from stageline.plan import ModelStatus, Signature
from stageline.wire import Decoder, Message, Part, encode

VERSION = 1
VERSIONS = (1,)

PREFIX = struct.Struct(">II")
MAX_HEADER_BYTES = 64 << 10
"""Largest header. A gateway's list of models is the longest message, see `MAX_DESCRIBED_BYTES`."""
MAX_DESCRIBED_BYTES = 4 << 20
"""Largest header that a client has to accept from a server."""
MAX_BODY_BYTES = (1 << 32) - 1

RequestId = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
"""Chosen by the client, unique among its unanswered requests of the connection."""
Name = Annotated[str, msgspec.Meta(max_length=256)]
Trace = Annotated[str, msgspec.Meta(max_length=128)]
Priority = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
Level = Annotated[int, msgspec.Meta(ge=0, le=255)]


class TensorSpec(Part, frozen=True):
    """A named tensor whose bytes are the next part of the body."""

    name: Name
    dtype: Annotated[str, msgspec.Meta(max_length=32)]
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=64)]


class Limits(Part, frozen=True):
    """What the gateway accepts: bytes of one request's body and header, unanswered requests, default deadline."""

    max_request_bytes: int
    max_in_flight: int
    max_header_bytes: int = MAX_HEADER_BYTES
    default_deadline_ms: float = 0.0


class StageTiming(Part, frozen=True):
    """What one stage spent on the batch, in microseconds."""

    queue_us: int = 0
    compute_us: int = 0


class Timings(Part, frozen=True):
    """Where the time went, in microseconds: waiting at the gateway, from dispatch to result, in all; and each stage."""

    queue_us: int = 0
    batch_us: int = 0
    total_us: int = 0
    stages: tuple[StageTiming, ...] = ()


class ModelInfo(Part, frozen=True):
    """A model that the gateway knows; `reason` says why it is not serving."""

    name: str
    status: ModelStatus
    signature: Signature
    reason: str = ""


# --- server to client ---------------------------------------------------------------------------------------


class ServerHello(Message, frozen=True):
    """The first frame of a connection. A client that sent nothing for `keepalive_s` seconds pings (0: never)."""

    versions: tuple[int, ...]
    server: str
    gateway: str
    limits: Limits
    auth_required: bool = False
    keepalive_s: float = 0.0


class Accepted(Message, frozen=True):
    """The request is in the in-flight table; sent only if `want_accepted`."""

    id: int


class Result(Message, frozen=True):
    """The answer. `batch` items shared the batch that it was computed in, `attempts` dispatches were needed."""

    id: int
    outputs: tuple[TensorSpec, ...]
    batch: int = 1
    attempts: int = 1
    level: int = 0
    timings: Timings | None = None


class Error(Message, frozen=True):
    """The request `id` ended otherwise, or with id 0 the connection did. `code` is one of `stageline.errors`."""

    id: int
    code: str
    message: str
    retry_after_ms: float | None = None
    node: str | None = None


class Described(Message, frozen=True):
    """The models asked for, by name."""

    id: int
    models: tuple[ModelInfo, ...] = ()


class Pong(Message, frozen=True):
    """Answers `Ping`."""

    sequence: int = 0


# --- client to server ---------------------------------------------------------------------------------------


class ClientHello(Message, frozen=True):
    """The first frame of a client: the version it picked, the `token` if the gateway asks for one, a `user`."""

    version: int
    client: Name = ""
    token: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    user: Name = ""


class Infer(Message, frozen=True):
    """Run `model` on the tensors in the body; dimension 0 of each is the batch.

    Lower `priority` numbers are served first (0: the default). `deadline_ms` counts from when the gateway has the
    whole request (0: its default, negative: it has passed). Requests with one `idempotency_key` (of a user and a model)
    have one computation and one outcome. `user` (default: the connection's) tells keys apart, `level` (quality, 0:
    full) is reserved.
    """

    id: RequestId
    model: Name
    inputs: tuple[TensorSpec, ...]
    priority: Priority = 0
    deadline_ms: float = 0.0
    user: Name = ""
    level: Level = 0
    trace_id: Trace = ""
    idempotency_key: Trace = ""
    want_accepted: bool = False
    want_timings: bool = False


class Cancel(Message, frozen=True):
    """Give up the request; it ends with `Error` cancelled unless its answer is already on the way."""

    id: RequestId


class Describe(Message, frozen=True):
    """Ask for one model, or all; answered with `Described`."""

    id: RequestId
    model: Name | None = None


class Ping(Message, frozen=True):
    """Answered with `Pong`."""

    sequence: int = 0


ToServer = Union[ClientHello, Infer, Cancel, Describe, Ping]
ToClient = Union[ServerHello, Accepted, Result, Error, Described, Pong]


class _Asked(msgspec.Struct, frozen=True, tag_field="t", tag="Infer"):
    id: RequestId


decode_to_server: Decoder[ClientHello | Infer | Cancel | Describe | Ping] = Decoder(
    ToServer, max_bytes=MAX_HEADER_BYTES
)
_decode_asked: Decoder[_Asked | Ping] = Decoder(Union[_Asked, Ping])  # one type alone would need no tag
decode_to_client: Decoder[ServerHello | Accepted | Result | Error | Described | Pong] = Decoder(
    ToClient, max_bytes=MAX_DESCRIBED_BYTES
)


def encode_frame(message: ToServer | ToClient, buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """The pieces of a frame, to be written in order. Raises `LocalProtocolError` when a limit is broken."""
    header = encode(message)
    body = sum(memoryview(b).nbytes for b in buffers)
    limit = MAX_DESCRIBED_BYTES if isinstance(message, Described) else MAX_HEADER_BYTES
    if len(header) > limit or body > MAX_BODY_BYTES:
        raise LocalProtocolError(f"a frame of {len(header)} header and {body} body bytes exceeds the protocol's limits")
    return [PREFIX.pack(len(header), body) + header, *buffers]


def split_body(specs: Sequence[TensorSpec], body: memoryview) -> list[memoryview]:
    """The part of `body` that belongs to each tensor, without copying.

    Raises `InvalidInputError` naming the tensor whose dtype, shape or bytes are wrong.
    """
    if len(specs) > MAX_VALUES:
        raise InvalidInputError(f"{len(specs)} tensors; at most {MAX_VALUES} are allowed")
    parts: list[memoryview] = []
    offset = 0
    for spec in specs:
        try:
            size = tensor_bytes(spec)
            part = body[offset : offset + size]
            check_tensor(spec.dtype, spec.shape, len(part))
        except RemoteProtocolError as error:
            raise InvalidInputError(f"tensor {spec.name!r}: {error}") from None
        parts.append(part)
        offset += size
    if offset != len(body):
        raise InvalidInputError(f"the tensors take {offset} bytes, but the body has {len(body)}")
    return parts


def tensor_bytes(spec: TensorSpec) -> int:
    """Bytes of the tensor, 0 for an unknown dtype. Raises `RemoteProtocolError` for a negative size."""
    if any(d < 0 for d in spec.shape):
        raise RemoteProtocolError(f"shape {spec.shape} has a negative size")
    return prod(spec.shape) * ITEMSIZE.get(spec.dtype, 0)


def id_asked(header: bytes) -> int | None:
    """The id of an `Infer` whose other fields may be missing or of another type; None for any other header."""
    try:
        asked = _decode_asked(header)
    except RemoteProtocolError:
        return None
    return asked.id if isinstance(asked, _Asked) else None
