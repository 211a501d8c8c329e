"""The directories that keys lie in: one of a cluster, with one for each of its services, and what a service reads.

::

    DIR/coordinator/coordinator.key     of the coordinator (both, where there are two)
    DIR/coordinator/admins/NAME.pub     administrators who are let in
    DIR/coordinator/nodes/NAME.pub      workers and gateways that are let in
    DIR/admin/admin.key                 of an administrator, beside coordinator.pub
    DIR/nodes/NAME/node.key             of a worker or gateway, beside coordinator.pub
    DIR/nodes/NAME/node.key.next        the one that will take its place, while it is being changed
    DIR/…/coordinator.key.next, .pub.next   the same of the coordinator

A service is given its own directory and needs nothing of the others: `keys_dir`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

from stageline.curve import KeyPair, read_pair, read_public, require_curve, write_pair, write_public
from stageline.errors import ConfigError
from stageline.jointoken import LONGEST_TOKEN_S, JoinToken
from stageline.keyring import Keyring, Principal

COORDINATOR, ADMIN, NODES, ADMINS = "coordinator", "admin", "nodes", "admins"
COORDINATOR_KEY, ADMIN_KEY, NODE_KEY = "coordinator.key", "admin.key", "node.key"
NODE_KEY_NEXT, COORDINATOR_KEY_NEXT = "node.key.next", "coordinator.key.next"
COORDINATOR_PUBLIC, COORDINATOR_PUBLIC_NEXT = "coordinator.pub", "coordinator.pub.next"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def init_keys(directory: Path) -> list[Path]:
    """Make the keys of a coordinator and of an administrator, if they are not there; returns the files that are new.

    Raises `ConfigError` if a file is damaged or cannot be written.
    """
    require_curve()
    here, made = directory / COORDINATOR, list[Path]()
    key = here / COORDINATOR_KEY
    if not key.exists():
        write_pair(key, KeyPair.fresh(), COORDINATOR)
        made.append(key)
    public = read_pair(key)[0].public
    made += _make(directory / ADMIN, ADMIN_KEY, ADMIN, public, here / ADMINS)
    (here / NODES).mkdir(exist_ok=True)
    return made


def add_node(directory: Path, name: str) -> list[Path]:
    """Make the keys of the worker or gateway `name`, if they are not there; returns the files that are new.

    Raises `ConfigError` for a name that cannot be, or where `init_keys` was not called before.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} cannot be the name of a node with keys: want letters, digits, . _ and -")
    public = read_pair(_coordinator_key(directory))[0].public
    return _make(directory / NODES / name, NODE_KEY, name, public, directory / COORDINATOR / NODES)


def coordinator_token(directory: Path, port: int, expires_s: float) -> str:
    """A join token made beforehand, which serves from now on for so many seconds. `ConfigError` without the key."""
    if not 0 < expires_s <= LONGEST_TOKEN_S:
        raise ConfigError("a token serves for a year at most")
    if not 0 < port <= 65535:
        raise ConfigError(f"the join port must be between 1 and 65535, got {port}")
    pair = read_pair(_coordinator_key(directory))[0]
    return JoinToken.beforehand(pair, port, int(time.time() + expires_s)).text


def remove_node(directory: Path, name: str) -> None:
    """Have the coordinator let that node in no more. Raises `ConfigError` if it is not let in."""
    nodes = directory / COORDINATOR / NODES
    allowed = nodes / f"{name}.pub"
    if not NAME.fullmatch(name) or not allowed.exists():
        known = ", ".join(sorted(path.stem for path in nodes.glob("*.pub"))) or "none"
        raise ConfigError(f"no key of {name[:80]!r} is let in by {directory}; there are: {known}")
    allowed.unlink()


def _coordinator_key(directory: Path) -> Path:
    key = directory / COORDINATOR / COORDINATOR_KEY
    if not key.exists():
        raise ConfigError(f"{directory} holds no keys of a coordinator: run `stageline keys init {directory}` first")
    return key


def _make(folder: Path, file: str, name: str, coordinator: bytes, allowed: Path) -> list[Path]:
    key, made = folder / file, list[Path]()
    if not key.exists():
        write_pair(key, KeyPair.fresh(), name)
        made.append(key)
    write_public(folder / COORDINATOR_PUBLIC, coordinator)
    write_public(allowed / f"{name}.pub", read_pair(key)[0].public)
    return made


def read_keyring(directory: Path | None) -> Keyring | None:
    """The keys of a service, from its `keys_dir`; None without one.

    Raises `ConfigError` for a directory that holds none, or the keys of several.
    """
    if directory is None:
        return None
    require_curve()
    found = [name for name in (COORDINATOR_KEY, ADMIN_KEY, NODE_KEY) if (directory / name).exists()]
    if len(found) != 1:
        what = " and ".join(found) or "no key"
        raise ConfigError(
            f"{directory} holds {what}: name the directory of one service, as `stageline keys init` and `keys add` "
            f"make them ({', '.join((COORDINATOR, ADMIN, NODES + '/NAME'))})"
        )
    own, name = read_pair(directory / found[0])
    if found[0] == COORDINATOR_KEY:
        return Keyring(own, own.public, name, principals=read_principals(directory, own.public))
    public, coming = read_public(directory / COORDINATOR_PUBLIC), directory / COORDINATOR_PUBLIC_NEXT
    successor = read_public(coming) if coming.exists() else b""
    return Keyring(own, public, name, directory=directory, successor=successor)


def read_principals(directory: Path, coordinator: bytes) -> dict[bytes, Principal]:
    """Whom a coordinator lets in: the other coordinator, which has the same key, and who has a file here."""
    found = {coordinator: Principal("coordinator", COORDINATOR)}
    for path in _files(directory / NODES):
        found[read_public(path)] = Principal("node", path.stem)
    for path in _files(directory / ADMINS):
        found[read_public(path)] = Principal("admin", path.stem)
    return found


def _files(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("*.pub"))
