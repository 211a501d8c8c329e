"""The control ROUTER: messages in, messages out, and which peer a broken connection belonged to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from stageline import logs
from stageline.errors import RemoteProtocolError
from stageline.gatekeeper import Quiet, log_failed, user_of
from stageline.messages import CONTROL, ToCoordinator
from stageline.monitors import peer_monitor, read_monitor
from stageline.sockets import Socket
from stageline.wire import Decoder, Message, encode

BURST = 256
"""Messages read in one go, so that a flood cannot keep timers from running."""

_decode: Decoder[Any] = Decoder(ToCoordinator)
Refusal = Callable[[str, str, Message], Message | None]
"""Of whose key it came under, the sender's identity and the message: what to answer instead, None if it is allowed."""


@dataclass(frozen=True)
class Lost:
    """The connection of `peer` broke."""

    peer: str


class ControlSocket:
    """Wraps a bound ROUTER. Identities are UTF-8 (`stageline.messages.control_identity`); other peers are dropped.

    With keys, what `refusal` has an answer for is answered with that, and never seen by who reads here.
    """

    def __init__(self, socket: Socket, refusal: Refusal | None = None) -> None:
        self.socket = socket
        self._refusal = refusal
        self._quiet = Quiet()
        self.monitor = peer_monitor(socket)
        self._log = logs.get(service="coordinator", part="control")
        self._peers: dict[int, str] = {}
        self._origins: dict[int, str] = {}

    def origin(self, peer: str) -> str:
        """The address that the peer's connection comes from; empty: not known."""
        return next((self._origins.get(fd, "") for fd, name in self._peers.items() if name == peer), "")

    def send(self, peer: str, message: Message) -> bool:
        """False when the peer is not connected or does not read."""
        try:
            self.socket.send_multipart([peer.encode(), encode(message)], flags=zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._log.debug("not sent", peer=peer, message=type(message).__name__, reason=error.strerror)
            return False
        return True

    def receive(self) -> list[tuple[str, Message] | Lost]:
        """What has arrived, in an order that makes sense.

        A connection is known by its file descriptor. One that closed and whose number a later connection got is
        reported before the messages, which may be the later one's; any other after them.
        """
        frames = self._read_frames()
        early, late = self._read_monitor()
        found: list[tuple[str, Message] | Lost] = [Lost(peer) for fd in early if (peer := self._peers.pop(fd, None))]
        for fd, user, peer, data in frames:
            message = self._parse(peer, data)
            refused = self._refusal(user, peer, message) if self._refusal and message is not None else None
            if refused is not None:
                self.send(peer, refused)
                continue
            self._claim(fd, peer)
            if message is not None:
                found.append((peer, message))
        for fd in late:
            self._origins.pop(fd, None)
            lost = self._peers.pop(fd, None)
            if lost is not None:
                found.append(Lost(lost))
        return found

    def _claim(self, fd: int, peer: str) -> None:
        """The peer talks over `fd` now: libzmq reads an older connection of that name no more, not even its end."""
        if self._peers.get(fd) != peer:
            self._peers = {other: name for other, name in self._peers.items() if name != peer}
            self._peers[fd] = peer

    def _read_frames(self) -> list[tuple[int, str, str, list[bytes]]]:
        """The connection, whose key it has, the sender's identity and what it said."""
        found: list[tuple[int, str, str, list[bytes]]] = []
        while len(found) < BURST:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            identity, *rest = frames
            try:
                fd = int(frames[-1].get(zmq.SRCFD))
                if fd not in self._peers:  # a new connection
                    self._origins[fd] = str(frames[-1].get("Peer-Address"))
                user = user_of(frames[-1]) if self._refusal else ""
                found.append((fd, user, identity.bytes.decode(), [frame.bytes for frame in rest]))
            except UnicodeDecodeError:
                self._log.warning("message dropped", reason="the sender's identity is not UTF-8")
            except zmq.ZMQError:  # libzmq knows the connection only of peers that speak ZMTP 3
                self._log.warning("message dropped", reason="the sender speaks an old version of ZMTP")
        return found

    def _read_monitor(self) -> tuple[list[int], list[int]]:
        """Descriptors that were closed: those that a new connection has taken over since, and the others."""
        reused: list[int] = []
        closed: dict[int, None] = {}
        for came, fd in read_monitor(self.monitor):
            if came is None:
                log_failed(self._log, self._quiet, CONTROL.name)
            elif not came:
                closed[fd] = None
            elif fd in closed:
                del closed[fd]
                reused.append(fd)
        return reused, list(closed)

    def _parse(self, peer: str, frames: list[bytes]) -> Message | None:
        try:
            if len(frames) != 1:
                raise RemoteProtocolError(f"a control message has one frame, not {len(frames)}")
            message: Message = _decode(frames[0])
            return message
        except RemoteProtocolError as error:
            self._log.warning("message dropped", peer=peer[:80], reason=error.message[:200])
            return None
