"""One connection of a client, without I/O: the handshake, and what the server says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Union, get_args

import msgspec

from stageline.client.tensors import Array, from_wire
from stageline.data import Buffer
from stageline.errors import (
    AuthenticationError,
    ConfigError,
    InvalidInputError,
    RemoteProtocolError,
    StagelineError,
)
from stageline.errors import from_wire as error_from_wire
from stageline.framing import Frame, FrameReader
from stageline.protocol import (
    MAX_DESCRIBED_BYTES,
    VERSION,
    Accepted,
    ClientHello,
    Described,
    Error,
    ModelInfo,
    Ping,
    Pong,
    Result,
    ServerHello,
    Timings,
    ToClient,
    decode_to_client,
    encode_frame,
    split_body,
)
from stageline.tls import SCHEME
from stageline.wire import Decoder

_NO_HOST = re.compile(r"[/,\s]")


@dataclass(frozen=True)
class InferResult:
    """An answer. `batch` items shared the batch it was computed in, `attempts` dispatches were needed."""

    outputs: dict[str, Array]
    batch: int
    attempts: int
    timings: Timings | None
    request_id: int
    level: int = 0


@dataclass(frozen=True)
class Greeted:
    """The handshake is over."""

    hello: ServerHello


@dataclass(frozen=True)
class Finished:
    """Request `id` has its outcome."""

    id: int
    value: InferResult | dict[str, ModelInfo] | StagelineError


@dataclass(frozen=True)
class Broken:
    """The server ended the connection, for this reason."""

    error: StagelineError


ClientEvent = Union[Greeted, Finished, Broken]


class ClientCore:
    """One connection's state. Give it what was received; write what it returns, in order.

    Raises `RemoteProtocolError` when the server breaks the protocol, and `AuthenticationError` when it asks for a token
    and there is none: close the connection then.
    """

    def __init__(self, *, name: str = "", token: str = "", user: str = "") -> None:
        self.reader = FrameReader(max_header=MAX_DESCRIBED_BYTES)
        self.hello: ServerHello | None = None
        self._identity = (name, token, user)

    def greeting(self) -> list[Buffer]:
        """The client's answer to `Greeted`."""
        name, token, user = self._identity
        return encode_frame(ClientHello(VERSION, name, token, user))

    def ping(self) -> list[Buffer]:
        """A sign of life, which is answered with one."""
        return encode_frame(Ping())

    def received(self, frames: Sequence[Frame]) -> list[ClientEvent]:
        """What the frames say."""
        events = [self._event(frame) for frame in frames]
        return [event for event in events if event is not None]

    def _event(self, frame: Frame) -> ClientEvent | None:
        message: Any = _decode(frame.header)
        if message is None:
            return None
        if isinstance(message, Error):
            retry = None if message.retry_after_ms is None else message.retry_after_ms / 1000
            error = error_from_wire(message.code, message.message, retry_after_s=retry, node=message.node)
            return Finished(message.id, error) if message.id else Broken(error)
        if isinstance(message, ServerHello):
            return self._greet(message)
        if self.hello is None:
            raise RemoteProtocolError("the server must begin with ServerHello: is this a Stageline gateway?")
        if isinstance(message, Result):
            return Finished(message.id, _result(message, frame.body))
        if isinstance(message, Described):
            return Finished(message.id, {model.name: model for model in message.models})
        if not isinstance(message, (Accepted, Pong)):
            raise RemoteProtocolError(f"the server sent {type(message).__name__}")
        return None

    def _greet(self, hello: ServerHello) -> Greeted:
        if self.hello is not None:
            raise RemoteProtocolError("the server said hello twice")
        if VERSION not in hello.versions:
            theirs = ", ".join(map(str, hello.versions))
            raise RemoteProtocolError(f"the gateway speaks protocol {theirs}, this client {VERSION}: upgrade one")
        if hello.auth_required and not self._identity[1]:
            asks = f"the gateway {hello.gateway} asks for a token"
            raise AuthenticationError(f"{asks}: give one (STAGELINE_TOKEN, STAGELINE_TOKEN_FILE, --token-file, token=)")
        self.hello = hello
        return Greeted(hello)


class _Tagged(msgspec.Struct):
    t: str


_KNOWN = frozenset(kind.__name__ for kind in get_args(ToClient))
_decode_tag: Decoder[_Tagged] = Decoder(_Tagged, max_bytes=MAX_DESCRIBED_BYTES)


def _decode(header: bytes) -> Any:
    """The message, None for one that only newer clients know."""
    try:
        return decode_to_client(header)
    except RemoteProtocolError:
        if _decode_tag(header).t in _KNOWN:
            raise
        return None


def _result(message: Result, body: memoryview) -> InferResult:
    try:
        parts = split_body(message.outputs, body)
    except InvalidInputError as error:
        raise RemoteProtocolError(f"the answer to request {message.id} is malformed: {error}") from None
    outputs = {spec.name: from_wire(spec, part) for spec, part in zip(message.outputs, parts, strict=True)}
    return InferResult(outputs, message.batch, message.attempts, message.timings, message.id, message.level)


def read_addresses(addresses: Any) -> list[str]:
    """One address, or several. Raises `ConfigError` for what is neither."""
    several: list[Any] = [addresses]
    if isinstance(addresses, Iterable) and not isinstance(addresses, str):
        several = list(addresses)
    if not all(isinstance(one, str) for one in several):
        raise ConfigError(f"a client needs addresses of gateways such as '127.0.0.1:7710', got {addresses!r:.80}")
    for address in several:
        parse_address(address)
    return several


def check_concurrency(concurrency: Any) -> None:
    """Raises `ConfigError` unless it is a number of requests."""
    if not isinstance(concurrency, Integral) or concurrency < 1:
        raise ConfigError(f"concurrency must be a whole number of requests, at least 1, got {concurrency!r:.80}")


def parse_address(address: str) -> tuple[str, int]:
    """``host:port`` (``tcp://`` or ``tls://`` before it is fine). Raises `ConfigError`."""
    host, _, port = address.removeprefix("tcp://").removeprefix(SCHEME).rpartition(":")
    if not host or _NO_HOST.search(host) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"a gateway's client address looks like 127.0.0.1:7710, got {address!r:.80}")
    return host.strip("[]"), int(port)
