"""Join tokens: what a worker or gateway is given so that a coordinator lets it in.

A token says which coordinator (its public key), which of its tokens, the secret that proves it, and the port to knock
at. It travels once, encrypted, to whoever has the key that it names; the coordinator keeps a hash of the secret.

One that is made beforehand, from the coordinator's key (`stageline keys token`), is kept nowhere: its name says when
it expires, and its secret is a code of that name under the key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib

import msgspec

from stageline.addresses import KEY_BYTES
from stageline.curve import KeyPair
from stageline.errors import ConfigError

PREFIX = "stageline-"
SECRET_BYTES = 20
LONGEST_TOKEN_S = 366 * 86400.0
BEFOREHAND = re.compile(r"k([0-9a-f]{1,11})-[0-9a-f]{12}")
"""The name of a token that was made beforehand, with the Unix second from which on it does not serve."""


class JoinToken(msgspec.Struct, frozen=True, array_like=True):
    """`coordinator`: its public key; `port`: where it answers those who join."""

    coordinator: bytes
    id: str
    secret: bytes
    port: int

    @staticmethod
    def fresh(coordinator: bytes, port: int) -> JoinToken:
        """A new one."""
        return JoinToken(coordinator, secrets.token_hex(6), secrets.token_bytes(SECRET_BYTES), port)

    @staticmethod
    def beforehand(pair: KeyPair, port: int, expires: int) -> JoinToken:
        """One for any number of uses until then (Unix seconds), from the coordinator's key alone."""
        identity = f"k{expires:x}-{secrets.token_hex(6)}"
        return JoinToken(pair.public, identity, secret_of(identity, pair.secret), port)

    def __repr__(self) -> str:
        return f"JoinToken({self.id})"

    @property
    def text(self) -> str:
        """As people copy it."""
        body = msgspec.msgpack.encode(self)
        return PREFIX + base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4, "big") + body).decode().rstrip("=")


def read_token(text: str) -> JoinToken:
    """Raises `ConfigError` for one that is cut off, mistyped or none; it does not repeat it."""
    digits = text.strip().removeprefix(PREFIX)
    try:
        whole = base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True)
        token = msgspec.msgpack.decode(whole[4:], type=JoinToken)
        sound = zlib.crc32(whole[4:]) == int.from_bytes(whole[:4], "big") and len(token.coordinator) == KEY_BYTES
    except (ValueError, msgspec.DecodeError):
        sound = False
    if not sound or not text.strip().startswith(PREFIX):
        raise ConfigError("the join token is none, or not whole: copy all that `stageline nodes token` printed")
    return token


def secret_of(identity: str, key: bytes) -> bytes:
    """The secret of a token that was made beforehand, from its name and the coordinator's secret key."""
    return hmac.digest(key, f"stageline join token {identity}".encode(), "sha256")[:SECRET_BYTES]


def hashed(secret: bytes) -> str:
    """What is kept of a secret. It is random and long, so a plain hash will do."""
    return hashlib.sha256(secret).hexdigest()


def proves(secret: bytes, kept: str) -> bool:
    """Whether the secret is the one that this was kept of, in constant time."""
    return hmac.compare_digest(hashed(secret), kept)
