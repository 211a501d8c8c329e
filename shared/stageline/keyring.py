"""The keys that a process has, and whose keys it lets in.

Two pairs: its own, by which it is known to the coordinator, and one for what passes between workers and gateways,
which is new at every start and which others learn from the coordinator. Whoever connects anywhere must have a key that
is let in here, and must have been told the key of who listens.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stageline.curve import KeyPair
from stageline.messages import DATA, JOIN, LOCAL, PROBE, Admit, Channel

Role = Literal["admin", "node", "coordinator"]

PEERS = frozenset({DATA.name, PROBE.name})
"""Channels between workers and gateways."""

UNKNOWN, LATER = b"400", b"300"
"""What a key is answered that is not let in. The second is not final: it may have come before we were told of it, and
who is told 400 does not try again for seconds."""


@dataclass(frozen=True)
class Principal:
    """Who a key belongs to. Over ZeroMQ it is named by its text, then # and the key."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role}:{self.name}"

    @staticmethod
    def parse(text: str) -> Principal | None:
        """The principal of that text, with a key or without; None for any other."""
        role, _, name = text.partition("#")[0].partition(":")
        return Principal(role, name) if role in ("admin", "node", "coordinator") else None  # type: ignore[arg-type]


@dataclass
class Keyring:
    """`own` and `coordinator` are for talking with the coordinator, `data` for everything else.

    `directory`: where `own` was read. `own` and `coordinator` may change while the process runs: sockets made later
    are for the new ones. `successor`: the key that the coordinator will have, or had until lately.
    `principals` and `peers` are replaced whole, never changed: other threads read them.
    """

    own: KeyPair
    coordinator: bytes
    name: str = ""
    data: KeyPair = field(default_factory=KeyPair.fresh)
    principals: Mapping[bytes, Principal] = field(default_factory=dict)
    peers: frozenset[bytes] = frozenset()
    revoked: frozenset[str] = frozenset()
    directory: Path | None = None
    successor: bytes = b""

    def pair(self, channel: Channel) -> KeyPair:
        """What a socket of the channel shows."""
        return self.data if channel.name in PEERS or channel is LOCAL else self.own

    def server(self, channel: Channel, told: bytes) -> bytes:
        """The key that who listens must have; `told` is the one of the address, empty if it bears none."""
        if channel is LOCAL:
            return self.data.public
        return told if channel.name in PEERS else self.coordinator

    def admit(self, message: Admit) -> None:
        """Let in on the channels between workers and gateways whom the coordinator names."""
        self.revoked = frozenset(key.hex() for key in message.revoked)
        self.peers = (frozenset(message.keys) | (self.peers if message.beside else frozenset())) - set(message.revoked)

    def admits(self, domain: str, key: bytes) -> tuple[bytes, str]:
        """ZAP's status code, and who it is where that is known."""
        if domain == LOCAL.name:
            return (b"200", "own") if hmac.compare_digest(key, self.data.public) else (UNKNOWN, "")
        if domain == JOIN.name:  # everybody may knock; who is let in, the token says
            return b"200", key.hex()
        if domain in PEERS:
            return (b"200", key.hex()) if key in self.peers or key == self.data.public else (LATER, "")
        found = self.principals.get(key)
        return (b"200", f"{found}#{key.hex()}") if found is not None else (UNKNOWN, "")

    def knows(self, user: str) -> Principal | None:
        """Whose key a message of `user` came under, if that is let in now; a connection may be older than a change."""
        owner, (_, mark, digits) = Principal.parse(user), user.partition("#")
        if mark:
            return owner if self.principals.get(bytes.fromhex(digits)) == owner else None
        return owner if owner in self.principals.values() else None
