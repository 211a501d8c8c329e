"""One PUSH per downstream address, so that a slow peer never blocks another.

PUSH sockets are made IMMEDIATE: without a connection, sending fails at once instead of queueing in libzmq, and the
message waits here, where it can be bounded and dropped. A dropped message loses nothing: the gateway
dispatches the batch again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq

from stageline.data import Buffer
from stageline.errors import ConfigError
from stageline.logs import Logger
from stageline.messages import DATA
from stageline.sockets import COPY_BELOW_BYTES, Socket, Sockets

ALLOWED = ("tcp://", "ipc://@stageline-")
MAX_PENDING = 1024
MAX_PENDING_BYTES = 256 << 20
UNREACHABLE_S = 30.0
UNUSED_S = 120.0
MAX_PEERS = 512

_send: Any = zmq.backend.Socket.send  # what Socket.send adds is for sockets of other kinds
_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


def may_send_to(address: str) -> bool:
    """Whether a header may name this address: TCP, or an abstract socket of Stageline's."""
    return address.startswith(ALLOWED) and len(address) <= 256


@dataclass
class _Peer:
    socket: Socket
    used_s: float
    waiting_since_s: float = 0.0
    pending: deque[list[Buffer]] = field(default_factory=deque)
    pending_bytes: int = 0


class Peers:
    """Sends data messages; one thread at a time. Times are monotonic seconds."""

    def __init__(self, sockets: Sockets, log: Logger) -> None:
        self._sockets = sockets
        self._log = log
        self._peers: dict[str, _Peer] = {}
        self.any_waiting = False
        self.dropped = 0

    def send(self, address: str, frames: Sequence[Buffer], now: float) -> None:
        """Send, or keep until the peer is reachable; dropped when the address is not allowed or too much waits."""
        peer = self._peers.get(address) or self._new_peer(address, now)
        if peer is None:
            self.dropped += 1
            return
        peer.used_s = now
        if not peer.pending and _sent(peer.socket, frames):
            return
        size = sum(memoryview(frame).nbytes for frame in frames)
        if len(peer.pending) >= MAX_PENDING or peer.pending_bytes + size > MAX_PENDING_BYTES:
            self.dropped += 1
            return
        if not peer.pending:
            peer.waiting_since_s = now
        self.any_waiting = True
        peer.pending.append(list(frames))
        peer.pending_bytes += size

    def waiting(self) -> Iterable[Socket]:
        """Sockets to poll for POLLOUT."""
        return [peer.socket for peer in self._peers.values() if peer.pending]

    def flush(self, now: float) -> None:
        """Send what waits, where that is possible now."""
        for peer in self._peers.values():
            while peer.pending and _sent(peer.socket, peer.pending[0]):
                frames = peer.pending.popleft()
                peer.pending_bytes -= sum(memoryview(frame).nbytes for frame in frames)
                peer.waiting_since_s = peer.used_s = now
        self._look()

    def prune(self, now: float) -> None:
        """Give up on peers that stay unreachable, and close sockets that nobody uses."""
        for address, peer in list(self._peers.items()):
            if peer.pending and now - peer.waiting_since_s > UNREACHABLE_S:
                self._log.warning("peer unreachable, batches dropped", address=address, batches=len(peer.pending))
                self.dropped += len(peer.pending)
                self._forget(address)
            elif not peer.pending and now - peer.used_s > UNUSED_S:
                self._forget(address)
        self._look()

    def close(self, linger_ms: int) -> None:
        """Close all, giving libzmq that long to write what it still holds."""
        self.any_waiting = False
        for peer in self._peers.values():
            peer.socket.setsockopt(zmq.LINGER, linger_ms)
            self._sockets.release(peer.socket)
        self._peers.clear()

    def _new_peer(self, address: str, now: float) -> _Peer | None:
        if not may_send_to(address) or len(self._peers) >= MAX_PEERS:
            self._log.warning("refused to send", address=address[:256])
            return None
        try:
            peer = self._peers[address] = _Peer(self._sockets.connect(DATA, address), now)
        except ConfigError as error:
            self._log.warning("refused to send", reason=error.message)
            return None
        return peer

    def _look(self) -> None:
        self.any_waiting = any(peer.pending for peer in self._peers.values())

    def _forget(self, address: str) -> None:
        self._sockets.release(self._peers.pop(address).socket)


def _sent(socket: Socket, frames: Sequence[Buffer]) -> bool:
    """Whether the socket took the message, whole; its buffers are then kept alive until libzmq is done with them."""
    left = len(frames)
    try:
        for frame in frames:
            left -= 1
            _send(socket, frame, _MORE if left else _LAST, len(frame) < COPY_BELOW_BYTES)
    except zmq.Again:
        return False
    return True
