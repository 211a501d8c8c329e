"""What a worker or gateway needs before it can talk with its coordinator: its keys, and where others reach it."""

from __future__ import annotations

from pathlib import Path

from stageline.addresses import ANY_HOST, own_address_towards
from stageline.coordinators import read_addresses
from stageline.errors import ConfigError
from stageline.keyfiles import read_keyring
from stageline.keyring import Keyring


def node_keyring(keys_dir: Path | None, name: str) -> Keyring | None:
    """The keys of the worker or gateway `name`; None without a directory. Raises `ConfigError` for another's keys."""
    keyring = read_keyring(keys_dir)
    if keyring is not None and keyring.name != name:
        raise ConfigError(
            f"{keys_dir} holds the keys of {keyring.name!r}: start it with --name {keyring.name}, or make keys for "
            f"{name!r} with `stageline keys add`"
        )
    return keyring


def advertised_host(host: str, named: str, coordinator: str) -> str:
    """The host that others are told: the one `named`, or where `host` is all of them, the one towards `coordinator`.

    Raises `ConfigError` if none can be found.
    """
    if named or host not in ANY_HOST:
        return named
    return own_address_towards(read_addresses(coordinator)[0])
