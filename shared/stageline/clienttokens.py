"""Client tokens: made, kept hashed in a file, and recognised.

A token is ``slc_ID_SECRET``: 12 hexadecimal digits that name it, and 32 random bytes in base64url. The file is JSON,
``{"version": 1, "tokens": [...]}``, and holds of each secret its SHA-256: it is random and long, so a plain hash will
do, and it is compared in constant time. Who may write the file decides who may use the gateway; reading it opens
nothing.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from stageline.errors import AuthenticationError, ConfigError

PREFIX = "slc"
ID_BYTES, SECRET_BYTES = 6, 32
MAX_FILE_BYTES = 16 << 20

Scope = Literal["infer", "admin"]
"""``infer``: requests. ``admin``: the gateway's metrics and readiness."""

Digits = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}$")]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(max_length=100)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
Time = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class ClientToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept of one. Times in Unix seconds; `expires`, `rate` (requests per second) and `in_flight` 0: no end."""

    id: Digits
    hash: Hash
    scopes: tuple[Scope, ...]
    name: Name = ""
    rate: Rate = 0.0
    in_flight: Count = 0
    created: Time = 0.0
    expires: Time = 0.0

    def expired(self, now: float) -> bool:
        """Whether it lets in no more at `now` (Unix seconds)."""
        return 0 < self.expires <= now


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    tokens: tuple[ClientToken, ...]


@dataclass(frozen=True)
class Limits:
    """What a new token may do: its scopes; requests per second and unanswered ones (0: any number of them)."""

    scopes: tuple[Scope, ...] = ("infer",)
    rate: float = 0.0
    in_flight: int = 0


class ClientTokens:
    """Those of a file. Never changed, so any thread may ask."""

    def __init__(self, tokens: Iterable[ClientToken] = ()) -> None:
        self._by_id = {token.id: token for token in tokens}

    def get(self, token_id: str) -> ClientToken | None:
        """The one of that id."""
        return self._by_id.get(token_id)

    def check(self, text: str, now: float) -> ClientToken:
        """Whose token the text is. Raises `AuthenticationError` for none, an unknown and an expired one."""
        if not text:
            raise AuthenticationError("this gateway asks for a token: give one (STAGELINE_TOKEN, --token-file, token=)")
        token_id, secret = split(text)
        found = self._by_id.get(token_id)
        proven = hmac.compare_digest(hashed(secret), found.hash if found is not None else hashed(b""))
        if found is None or not proven:
            raise AuthenticationError("the token is not one of this gateway's: ask its administrator for another")
        if found.expired(now):
            ago = now - found.expires
            raise AuthenticationError(f"the token expired {ago:.0f} s ago: ask the administrator for another")
        return found


def split(text: str) -> tuple[str, bytes]:
    """The id and the secret of what may be a token; both are empty if it is none."""
    prefix, _, rest = text.partition("_")
    token_id, _, digits = rest.partition("_")
    try:
        secret = base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True)
    except ValueError:
        secret = b""
    if prefix != PREFIX or len(secret) != SECRET_BYTES:
        return "", b""
    return token_id, secret


def hashed(secret: bytes) -> str:
    """What is kept of a secret, in hexadecimal digits."""
    return hashlib.sha256(secret).hexdigest()


# --- the file -----------------------------------------------------------------------------------------------


def parse_tokens(data: bytes, path: Path) -> tuple[ClientToken, ...]:
    """The tokens of a file's content. Raises `ConfigError`."""
    try:
        tokens = msgspec.json.decode(data, type=_File).tokens
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no file of client tokens, see `stageline tokens`: {error}") from None
    if len({token.id for token in tokens}) < len(tokens):
        raise ConfigError(f"{path} names a client token twice: remove one")
    return tokens


def read_tokens(path: Path) -> tuple[ClientToken, ...]:
    """The tokens of a file. Raises `ConfigError` if there is none, or others may write it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path} ({error.strerror}): make it with `stageline tokens create --file {path}`"
        ) from None
    if mode & 0o022:
        raise ConfigError(f"{path} may be written by others (mode {mode & 0o777:o}): chmod go-w it")
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes: is it a file of client tokens?")
    return parse_tokens(data, path)


def create_token(path: Path, name: str, limits: Limits, *, now: float, expires: float = 0.0) -> tuple[ClientToken, str]:
    """Add a token to the file, which is made if it is not there; what is kept, and the token itself.

    Raises `ConfigError` for what cannot be kept, or a file that cannot be read or written.
    """
    token_id, secret = secrets.token_hex(ID_BYTES), secrets.token_bytes(SECRET_BYTES)
    made = ClientToken(
        token_id,
        hashed(secret),
        tuple(sorted(set(limits.scopes))),
        name=name,
        rate=limits.rate,
        in_flight=limits.in_flight,
        created=float(int(now)),
        expires=expires,
    )
    parse_tokens(_encode((made,)), path)  # so that what is written can be read
    with _changing(path):
        known = read_tokens(path) if path.exists() else ()
        _write(path, (*known, made))
    return made, f"{PREFIX}_{token_id}_{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"


def revoke_tokens(path: Path, which: str) -> list[ClientToken]:
    """Remove the token of that id, or those of that name. Raises `ConfigError` if there is none."""
    with _changing(path):
        known = read_tokens(path)
        gone = [token for token in known if which in (token.id, token.name)]
        if not gone:
            there = ", ".join(f"{token.id} ({token.name})" if token.name else token.id for token in known) or "none"
            raise ConfigError(f"no client token {which[:80]!r} in {path}; there are: {there}")
        _write(path, [token for token in known if token not in gone])
    return gone


def _encode(tokens: Sequence[ClientToken]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_File(1, tuple(tokens))), indent=2) + b"\n"


def _write(path: Path, tokens: Sequence[ClientToken]) -> None:
    """Replace the file whole: a gateway that reads it meanwhile sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_encode(tokens))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """One at a time: the folder is locked, as the file itself is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot use {path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
