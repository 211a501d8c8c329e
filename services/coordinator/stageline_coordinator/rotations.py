"""Keys of workers and gateways that are being changed: asked for by an administrator, made by their owner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stageline import logs
from stageline.errors import ClusterError, StagelineError
from stageline.messages import ROTATES, Done, ErrorReply, KeyMade, KeyTaken, MakeKey, RotateKey
from stageline.wire import Message

from .door import KeyRequests
from .members import Members
from .peers import Peer

PATIENCE_S = 8.0

Safely = Callable[[str, Message, float], None]
"""Sends a message to a peer once the other coordinator has all changes, too."""


@dataclass(frozen=True)
class _Asked:
    admin: str
    request: RotateKey
    until: float


class Rotations:
    """Of one term of a leader's: what was under way when it ended has changed nothing, or is done."""

    def __init__(self, keys: KeyRequests, send: Callable[[str, Message], object], safely: Safely) -> None:
        self._keys, self._send, self._safely = keys, send, safely
        self._asked: dict[str, _Asked] = {}
        self._log = logs.get(service="coordinator", part="keys")

    def ask(self, admin: str, request: RotateKey, members: Members, now: float) -> None:
        """Have the worker or gateway make a new key. The administrator is answered when that is let in, or why not."""
        try:
            self._keys.check_rotation(request)
            peer = _find(members, request.name)
            if peer.address in self._asked:
                raise ClusterError(f"{request.name} is changing its key already")
        except StagelineError as error:
            self._refuse(admin, request, error)
            return
        self._asked[peer.address] = _Asked(admin, request, now + PATIENCE_S)
        self._send(peer.address, MakeKey())

    def made(self, peer: str, message: KeyMade, now: float) -> None:
        """It has made one. What nobody asked for, or nobody waits for any more, changes nothing."""
        asked = self._asked.pop(peer, None)
        if asked is None:
            return
        try:
            if message.error:
                raise ClusterError(f"{asked.request.name} cannot change its key: {message.error[:300]}")
            self._keys.rotate(asked.request, message.public)
        except StagelineError as error:
            self._refuse(asked.admin, asked.request, error)
            return
        self._log.info("key changed", name=asked.request.name, key=message.public.hex()[:16])
        self._safely(peer, KeyTaken(public=message.public), now)
        self._safely(asked.admin, Done(id=asked.request.id), now)

    def tick(self, now: float) -> None:
        """Wait no longer for who is silent."""
        for peer, asked in list(self._asked.items()):
            if now >= asked.until:
                del self._asked[peer]
                why = f"{asked.request.name} did not answer within {PATIENCE_S:g} s: its key is as it was"
                self._refuse(asked.admin, asked.request, ClusterError(why))

    def _refuse(self, admin: str, request: RotateKey, error: StagelineError) -> None:
        self._send(admin, ErrorReply(id=request.id, code=error.code, message=error.message))


def _find(members: Members, name: str) -> Peer:
    found: Peer | None = members.nodes.get(name) or members.gateways.get(name)
    if found is None:
        known = ", ".join(sorted({*members.nodes, *members.gateways})) or "none"
        raise ClusterError(f"no worker or gateway is called {name[:80]!r}; there are: {known}")
    if found.liveness != "alive":
        raise ClusterError(f"{name} is {found.state}: it changes its key only while it runs")
    if ROTATES not in found.hello.features:
        raise ClusterError(f"{name} runs version {found.hello.version or 'unknown'}, which cannot: upgrade it first")
    return found
