"""Keys from an agent to its executor: through a pipe, so that nobody sees them among a process's arguments."""

from __future__ import annotations

from typing import IO

import msgspec

from stageline.curve import KeyPair
from stageline.errors import ConfigError
from stageline.keyring import Keyring


class _Keys(msgspec.Struct, frozen=True):
    public: bytes
    secret: bytes
    peers: tuple[bytes, ...]
    revoked: tuple[str, ...]


def write(pipe: IO[bytes], keyring: Keyring) -> None:
    """What `read` gives at the other end, then close it."""
    pair = keyring.data
    keys = _Keys(pair.public, pair.secret, tuple(keyring.peers), tuple(keyring.revoked))
    with pipe:
        pipe.write(msgspec.msgpack.encode(keys))


def read(pipe: IO[bytes]) -> Keyring:
    """The keyring of an executor: it has nothing to say to a coordinator. Raises `ConfigError` if none came."""
    try:
        keys = msgspec.msgpack.decode(pipe.read(), type=_Keys)
    except msgspec.DecodeError:
        raise ConfigError("no keys came from the agent: only an agent starts an executor") from None
    pair = KeyPair(keys.public, keys.secret)
    return Keyring(pair, b"", data=pair, peers=frozenset(keys.peers), revoked=frozenset(keys.revoked))
