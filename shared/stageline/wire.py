"""Typed msgpack: how every message becomes bytes and back.

Messages are frozen `msgspec.Struct`s, so the type annotations *are* the validation: a missing or mistyped field, an ext
type or trailing bytes are refused, an unknown field is ignored (a newer peer may say more than we know). Nothing
is ever unpickled.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from stageline.errors import RemoteProtocolError

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1

MAX_CONTROL_BYTES = 16 << 20
"""Largest control message in bytes; bulk (tensors, graphs) goes through the blob channel in chunks."""

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag=True, omit_defaults=True):
    """A message whose class name travels as its tag `t`."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A structure inside messages."""


def encode(message: msgspec.Struct) -> bytes:
    """The msgpack bytes of `message`."""
    return _encoder.encode(message)


class Decoder(Generic[T]):
    """Decodes one of a channel's message types.

    Raises `RemoteProtocolError` for anything that is not exactly such a message.
    """

    def __init__(self, kind: Any, *, max_bytes: int = MAX_CONTROL_BYTES) -> None:
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind)
        self._max_bytes = max_bytes

    def __call__(self, data: bytes | memoryview) -> T:
        if len(data) > self._max_bytes:
            raise RemoteProtocolError(f"a message of {len(data)} bytes exceeds the limit of {self._max_bytes}")
        try:
            return self._decoder.decode(data)  # type: ignore[no-any-return]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteProtocolError(f"not a valid message: {error}") from None
