"""Addresses as text: which are on loopback, the key that one bears, and the host in it that others can use.

With keys, a socket's address bears the public key that it answers with, ``tcp://HOST:PORT?key=`` and 64 hexadecimal
digits: it travels wherever the address does, and whoever connects there talks to that process or to nobody.
"""

from __future__ import annotations

import ipaddress
import socket

from stageline.errors import ConfigError

MARK = "?key="
KEY_BYTES = 32
ANY_HOST = frozenset({"0.0.0.0", "::", "*"})


def host_of(address: str) -> str:
    """The host in ``tcp://host:port`` or ``host:port``, without brackets."""
    return address.removeprefix("tcp://").partition(MARK)[0].rsplit(":", 1)[0].strip("[]")


def port_of(address: str) -> int:
    """The port in ``tcp://host:port``."""
    return int(address.partition(MARK)[0].rpartition(":")[2])


def is_loopback(host: str) -> bool:
    """Whether it is an address of this machine alone; of names only ``localhost`` is."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_loopback(address: str) -> None:
    """Raise `ConfigError` if binding `address` (``tcp://host:port``, ``host:port``) would listen beyond loopback."""
    if address.startswith(("ipc://", "inproc://")) or is_loopback(host_of(address)):
        return
    raise ConfigError(
        f"refusing to listen beyond loopback, on {host_of(address)}, without keys: run `stageline keys init DIR` and "
        "name this service's directory with --keys-dir, or bind to 127.0.0.1"
    )


def with_key(address: str, key: bytes) -> str:
    """The address with the public key of whoever listens there; as it is without one."""
    return f"{address}{MARK}{key.hex()}" if address and key else address


def split_key(address: str) -> tuple[str, bytes]:
    """The address as ZeroMQ takes it, and the key that it bears (empty: none). Raises `ConfigError` for a bad key."""
    plain, mark, digits = address.partition(MARK)
    if not mark:
        return plain, b""
    return plain, key_of(digits, f"the key in {plain}{MARK}… is none")


def key_of(digits: str, problem: str) -> bytes:
    """The key of 32 bytes in hexadecimal. Raises `ConfigError`, which begins with `problem`, for what is none."""
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{problem}: want {2 * KEY_BYTES} hexadecimal digits")
    return key


def reachable(address: str, through: str) -> str:
    """`address` as it was bound elsewhere; if that means all interfaces, at the host of `through`, its neighbour."""
    return advertise(address, host_of(through)) if host_of(address) in ANY_HOST else address


def advertise(address: str, host: str) -> str:
    """`address` with another host, unless that is empty."""
    if not host:
        return address
    plain, mark, key = address.partition(MARK)
    scheme, port = ("tcp://" if plain.startswith("tcp://") else ""), plain.rpartition(":")[2]
    return f"{scheme}{bracketed(host)}:{port}{mark}{key}"


def place_of(name: tuple[str, int]) -> str:
    """``host:port`` of a socket's own or its peer's name; of IPv6 only the first two parts count."""
    return f"{bracketed(name[0])}:{name[1]}"


def bracketed(host: str) -> str:
    """The host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def own_address_towards(address: str) -> str:
    """The address of this machine from which `address` (``tcp://host:port``) is reached; nothing is sent.

    Raises `ConfigError` if there is no way there.
    """
    host, port = host_of(address), port_of(address)
    try:
        family, kind, protocol, _, there = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(there)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(
            f"no way to the coordinator's host {host} ({error.strerror}): check the address, or name with "
            "--advertise-host by which others reach this machine"
        ) from None
