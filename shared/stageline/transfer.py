"""Downloads over the blob channel, into the cache."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import zmq

from stageline.blobs import BlobStore
from stageline.download import Download
from stageline.errors import BlobCorruptError, ConnectionLostError, RemoteProtocolError, from_wire
from stageline.logs import Logger
from stageline.messages import BLOBS, BlobChunk, BlobGet, ErrorReply, FromBlobs
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, encode

POLL_MS = 50
SILENT_S = 5.0
"""Without an answer for so long the connection is made anew."""

GIVE_UP_S = 60.0
"""Without a byte for so long the download fails; what has arrived is kept."""

DAMAGED_RETRIES = 1


class Interrupted(Exception):  # noqa: N818  not an error
    """The download is not wanted any more."""


class Transfer:
    """Belongs to one thread, except `address`, which any thread may set."""

    def __init__(
        self, sockets: Sockets, store: BlobStore, identity: bytes, interrupted: Callable[[], bool], log: Logger
    ) -> None:
        self.address = ""
        self.bytes_fetched = 0
        self._sockets, self._store, self._identity = sockets, store, identity
        self._interrupted, self._log = interrupted, log
        self._decode: Decoder[FromBlobs] = Decoder(FromBlobs)
        self._socket: Socket | None = None
        self._connected_to = ""
        self._shown: object = None
        self._next_id = 1

    def get(self, sizes: Mapping[str, int | None]) -> None:
        """Have these blobs in the cache; sizes in bytes where known.

        Raises `Interrupted`, `ConnectionLostError`, `StoreError`, or what the server reports.
        """
        have = {sha: self._begin(sha, size) for sha, size in sizes.items() if not self._store.has(sha)}
        have = {sha: size for sha, size in have.items() if not self._store.has(sha)}
        download = Download(have, first_id=self._next_id)
        damaged: dict[str, int] = {}
        unsent: deque[BlobGet] = deque()
        heard = progress = time.monotonic()
        while not download.done:
            now = time.monotonic()
            if self._interrupted():
                raise Interrupted
            if now - progress > GIVE_UP_S:
                raise ConnectionLostError("the coordinator sends no blobs: is its blob port reachable?")
            if self._outdated() or now - heard > SILENT_S:
                self._reconnect()
                unsent.clear()
                download.lost({sha: self._store.partial_size(sha) for sha in have})
                heard = now
            unsent.extend(download.requests())
            before = self.bytes_fetched
            if self._exchange(download, unsent, damaged):
                heard = time.monotonic()
            if self.bytes_fetched > before:
                progress = heard
            self._next_id = max(self._next_id, download.next_id)

    def close(self) -> None:
        """Close the connection; from any thread once the fetcher's has ended."""
        if self._socket is not None:
            self._sockets.release(self._socket)
            self._socket = None

    def _begin(self, sha: str, size: int | None) -> int:
        """How much of an unfinished download is here; a complete one is finished now."""
        have = self._store.partial_size(sha)
        if have and (size is None or have > size):
            self._store.discard_partial(sha)
            return 0
        if have and have == size:
            try:
                self._store.commit(sha)
            except BlobCorruptError:
                return 0
        return have

    def _outdated(self) -> bool:
        """Whether there is no connection, or one to another address, or under a key of before."""
        return self._socket is None or self._connected_to != self.address or self._shown != self._sockets.introduction

    def _reconnect(self) -> None:
        self.close()
        self._connected_to, self._shown = self.address, self._sockets.introduction
        self._socket = self._sockets.connect(BLOBS, self.address, identity=self._identity)

    def _exchange(self, download: Download, unsent: deque[BlobGet], damaged: dict[str, int]) -> bool:
        """Send what can be sent and take what has come; whether anything came."""
        socket = self._socket
        if socket is None:
            return False
        events = socket.poll(POLL_MS, zmq.POLLIN | (zmq.POLLOUT if unsent else 0))
        if events & zmq.POLLOUT and unsent:
            socket.send(encode(unsent[0]), zmq.NOBLOCK)
            unsent.popleft()
        if not events & zmq.POLLIN:
            return False
        frames = socket.recv_multipart(zmq.NOBLOCK)
        try:
            message = self._decode(frames[0])
        except RemoteProtocolError as error:
            self._log.warning("malformed blob message", reason=error.message)
            return False
        if isinstance(message, BlobChunk) and len(frames) == 2:
            self._take(download, message, frames[1], damaged)
        elif isinstance(message, ErrorReply) and download.asked_for(message.id):
            raise from_wire(message.code, message.message)
        return True

    def _take(self, download: Download, chunk: BlobChunk, data: bytes, damaged: dict[str, int]) -> None:
        arrived = download.arrived(chunk, len(data))
        if arrived is None:
            return
        self._store.append(arrived.sha256, arrived.offset, data, total=arrived.total)
        self.bytes_fetched += len(data)
        if not arrived.complete:
            return
        try:
            self._store.commit(arrived.sha256)
        except BlobCorruptError:
            damaged[arrived.sha256] = damaged.get(arrived.sha256, 0) + 1
            if damaged[arrived.sha256] > DAMAGED_RETRIES:
                raise
            download.restart(arrived.sha256, 0)
