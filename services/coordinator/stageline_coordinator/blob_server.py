"""The blob channel: a thread with a socket of its own that hands out and takes in blobs, chunk by chunk."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from threading import Thread
from typing import Any

import zmq

from stageline import logs
from stageline.blobs import FULL, BlobStore
from stageline.errors import BlobMissingError, ForbiddenError, RemoteProtocolError, StagelineError, StoreError
from stageline.gatekeeper import user_of
from stageline.messages import (
    BLOB_CHUNK_BYTES,
    BlobAck,
    BlobChunk,
    BlobGet,
    BlobPut,
    BlobQuery,
    BlobStatus,
    ErrorReply,
    ToBlobs,
)
from stageline.sockets import Socket
from stageline.wire import Decoder, encode

MAX_BLOB_BYTES = 1 << 40
MAX_QUERY = 10_000

_decode: Decoder[Any] = Decoder(ToBlobs)
Reply = tuple[Any, bytes | None]
"""A message and, for a chunk, its bytes."""


class BlobService:
    """Answers one message at a time; knows nothing of sockets."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.uploading_at = time.monotonic()
        """When somebody last stored a part of a blob, or asked which to store."""
        self.filled_at = -math.inf
        """When an upload last failed because the disk was full."""

    def answer(self, frames: list[bytes], may_upload: bool = True) -> Reply:
        """Raises `RemoteProtocolError` for what is no message of this channel; all else is answered."""
        message = _decode(frames[0]) if frames else None
        if message is None or len(frames) != (2 if isinstance(message, BlobPut) else 1):
            raise RemoteProtocolError("a blob message has one frame, or two if it carries a chunk")
        try:
            if isinstance(message, BlobPut | BlobQuery) and may_upload:
                self.uploading_at = time.monotonic()
            if isinstance(message, BlobPut) and not may_upload:
                raise ForbiddenError("only an administrator's key may store blobs")
            if isinstance(message, BlobPut):
                return self._put(message, frames[1]), None
            if isinstance(message, BlobGet):
                return self._get(message)
            return self._query(message), None
        except StagelineError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
                self.filled_at = time.monotonic()
            return ErrorReply(id=message.id, code=error.code, message=error.message), None

    def _get(self, message: BlobGet) -> Reply:
        path = self._blobs.path(message.sha256)
        if message.offset < 0 or message.length < 1:
            raise RemoteProtocolError("a range of a blob starts at 0 or later and has a byte at least")
        try:
            with path.open("rb") as file:
                total = os.fstat(file.fileno()).st_size
                file.seek(min(message.offset, total))
                chunk = file.read(min(message.length, BLOB_CHUNK_BYTES))
        except FileNotFoundError:
            raise BlobMissingError(f"blob {message.sha256[:12]}… is not in the store any more") from None
        except OSError as error:
            raise StoreError(f"blob {message.sha256[:12]}… cannot be read: {error.strerror}") from None
        return BlobChunk(id=message.id, sha256=message.sha256, offset=message.offset, total=total), chunk

    def _query(self, message: BlobQuery) -> BlobStatus:
        if len(message.sha256) > MAX_QUERY:
            raise RemoteProtocolError(f"ask about {MAX_QUERY} blobs at most in one message")
        missing = {sha: self._blobs.partial_size(sha) for sha in message.sha256 if not self._blobs.intact(sha)}
        return BlobStatus(id=message.id, missing=missing)

    def _put(self, message: BlobPut, chunk: bytes) -> BlobAck:
        sha, end = message.sha256, message.offset + len(chunk)
        if len(chunk) > BLOB_CHUNK_BYTES:
            raise RemoteProtocolError(f"a chunk has {BLOB_CHUNK_BYTES} bytes at most, not {len(chunk)}")
        if message.offset < 0 or not end <= message.total <= MAX_BLOB_BYTES or (not chunk and end < message.total):
            raise RemoteProtocolError("the chunk does not lie within the blob")
        if self._blobs.has(sha):
            return BlobAck(id=message.id, sha256=sha, received=message.total, complete=True)
        received = self._blobs.append(sha, message.offset, chunk, total=message.total)
        if received == message.total:
            self._blobs.commit(sha)
        return BlobAck(id=message.id, sha256=sha, received=received, complete=received == message.total)


class BlobThread:
    """Serves `socket` (a bound ROUTER that nobody else touches) until `stop`.

    `allows` says of whose key a message came under whether they may read blobs, and whether they may store some.
    """

    def __init__(
        self, socket: Socket, blobs: BlobStore, allows: Callable[[str], tuple[bool, bool]] | None = None
    ) -> None:
        self._socket, self._allows = socket, allows
        self._service = BlobService(blobs)
        self._log = logs.get(service="coordinator", part="blobs")
        self._uploaded: deque[str] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wake_reader, self._wake_writer = os.pipe()
        self._thread = Thread(target=self._run, name="blobs", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable when a blob was uploaded."""
        return self._event

    @property
    def uploading_at(self) -> float:
        """When an upload last did something, on the monotonic clock; the start of this process, if none did."""
        return self._service.uploading_at

    @property
    def filled_at(self) -> float:
        """When an upload last failed because the disk was full, on the monotonic clock; -inf if none did."""
        return self._service.filled_at

    def uploaded(self) -> tuple[str, ...]:
        """Those that were, since this was last asked."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return ()
        return tuple(self._uploaded.popleft() for _ in range(len(self._uploaded)))

    def stop(self) -> None:
        """End the thread; the socket is left to its owner."""
        os.write(self._wake_writer, b"x")
        self._thread.join()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        os.close(self._event)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_reader, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._wake_reader in ready:
                return
            self._serve_one()

    def _serve_one(self) -> None:
        identity, *parts = self._socket.recv_multipart(copy=False)
        frames = [part.bytes for part in parts]
        reads, stores = self._allows(user_of(parts[-1])) if self._allows and parts else (True, True)
        if not reads:
            return
        try:
            reply, chunk = self._service.answer(frames, stores)
        except RemoteProtocolError as error:
            self._log.warning("message dropped", reason=error.message)
            return
        except Exception:
            self._log.exception("a blob request failed")
            return
        if isinstance(reply, BlobAck) and reply.complete:
            self._uploaded.append(reply.sha256)
            os.eventfd_write(self._event, 1)
        answer = [identity.bytes, encode(reply)] if chunk is None else [identity.bytes, encode(reply), chunk]
        try:
            self._socket.send_multipart(answer, flags=zmq.NOBLOCK)
        except zmq.ZMQError:  # gone, or it does not read: it will ask again
            self._log.info("peer does not take its answer")
