"""CURVE key pairs: made, and kept in files that only their owner may read.

A file holds lines of ``name value``, keys as 64 hexadecimal digits. Secret keys are nowhere else: not in flags, not in
logs, not in messages.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from stageline.addresses import key_of
from stageline.errors import ConfigError


@dataclass(frozen=True)
class KeyPair:
    """32 bytes each; the secret is never shown."""

    public: bytes
    secret: bytes = field(repr=False)

    @staticmethod
    def fresh() -> KeyPair:
        """A new pair. Raises `ConfigError` where ZeroMQ was built without libsodium."""
        require_curve()
        public, secret = zmq.curve_keypair()
        return KeyPair(z85.decode(public), z85.decode(secret))

    @staticmethod
    def of_secret(secret: bytes) -> KeyPair:
        """The pair that `secret` (32 bytes) belongs to."""
        require_curve()
        return KeyPair(z85.decode(zmq.curve_public(z85.encode(secret))), secret)


def require_curve() -> None:
    """Raise `ConfigError` where ZeroMQ cannot encrypt."""
    if not zmq.has("curve"):
        raise ConfigError(
            f"this libzmq ({zmq.zmq_version()}) was built without CURVE: install pyzmq from its wheels, or libzmq "
            "with libsodium"
        )


def write_secret(path: Path, text: str | bytes) -> None:
    """A new file that only we may read. Raises `ConfigError` if there is one, or it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def read_secret(path: Path) -> str:
    """Raises `ConfigError` if it is missing, or others may read it."""
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read {path}: {why}") from None
    if mode & 0o077:
        raise ConfigError(f"{path} may be read by others (mode {mode & 0o777:o}): chmod 600 it")
    return text


def write_pair(path: Path, pair: KeyPair, name: str) -> None:
    """Write a new key file; `name` is whose it is."""
    write_secret(path, f"name {name}\npublic {pair.public.hex()}\nsecret {pair.secret.hex()}\n")


def read_pair(path: Path) -> tuple[KeyPair, str]:
    """The pair of a key file, and whose it is. Raises `ConfigError` for one that is none."""
    found = dict(line.split(" ", 1) for line in read_secret(path).splitlines() if " " in line)
    pair = KeyPair.of_secret(_key(found.get("secret", ""), path))
    if pair.public != _key(found.get("public", ""), path) or not found.get("name"):
        raise ConfigError(f"{path} is no key file of Stageline's, or damaged: make a new one with `stageline keys`")
    return pair, found["name"]


def write_public(path: Path, key: bytes) -> None:
    """A public key; anyone may read it. Raises `ConfigError` if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key.hex() + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def read_public(path: Path) -> bytes:
    """A public key, 32 bytes. Raises `ConfigError` if it is missing or none."""
    try:
        return _key(path.read_text(errors="replace").strip(), path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _key(digits: str, path: Path) -> bytes:
    return key_of(digits, f"{path} holds no key")
