"""The blob channel over real sockets: chunks in and out, resumed uploads, and what is refused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stageline.blobs import BlobStore
from stageline.messages import (
    BLOB_CHUNK_BYTES,
    BLOBS,
    BlobAck,
    BlobChunk,
    BlobGet,
    BlobPut,
    BlobQuery,
    BlobStatus,
    ErrorReply,
    FromBlobs,
)
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, encode
from stageline_coordinator.blob_server import BlobThread

_decode: Decoder[Any] = Decoder(FromBlobs)


class Client:
    def __init__(self, socket: Socket) -> None:
        self.socket = socket

    def ask(self, message: Any, *more: bytes) -> tuple[Any, bytes]:
        self.socket.send_multipart([encode(message), *more])
        return self.next()

    def next(self) -> tuple[Any, bytes]:
        assert self.socket.poll(30_000), "no answer"
        header, *rest = self.socket.recv_multipart()
        return _decode(header), b"".join(rest)

    def put(self, data: bytes, offset: int, total: int, sha: str) -> Any:
        return self.ask(BlobPut(id=1, sha256=sha, offset=offset, total=total), data)[0]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@pytest.fixture
def client(store: BlobStore) -> Iterator[Client]:
    sockets = Sockets()
    socket, address = sockets.bind(BLOBS, "tcp://127.0.0.1:0")
    thread = BlobThread(socket, store)
    yield Client(sockets.connect(BLOBS, address))
    thread.stop()
    sockets.close()


def sha_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_blob_goes_in_and_comes_out_in_chunks(client: Client, store: BlobStore) -> None:
    data = os.urandom(2 * BLOB_CHUNK_BYTES + 5)
    for offset in range(0, len(data), BLOB_CHUNK_BYTES):
        ack = client.put(data[offset : offset + BLOB_CHUNK_BYTES], offset, len(data), sha_of(data))
    assert ack == BlobAck(id=1, sha256=sha_of(data), received=len(data), complete=True)
    assert store.read(sha_of(data)) == data
    got = b""
    while len(got) < len(data):
        reply, chunk = client.ask(BlobGet(id=7, sha256=sha_of(data), offset=len(got), length=1 << 40))
        assert reply == BlobChunk(id=7, sha256=sha_of(data), offset=len(got), total=len(data))
        assert 0 < len(chunk) <= BLOB_CHUNK_BYTES
        got += chunk
    assert got == data
    assert client.ask(BlobGet(id=8, sha256=sha_of(data), offset=1 << 50, length=1))[1] == b""


def test_a_broken_upload_goes_on_where_it_ended(client: Client, store: BlobStore) -> None:
    data = os.urandom(1000)
    client.put(data[:400], 0, 1000, sha_of(data))
    other = sha_of(b"other")
    reply, _ = client.ask(BlobQuery(id=2, sha256=(sha_of(data), other)))
    assert reply == BlobStatus(id=2, missing={sha_of(data): 400, other: 0})
    wrong = client.put(data[300:], 300, 1000, sha_of(data))
    assert isinstance(wrong, ErrorReply) and "400" in wrong.message
    assert client.put(data[400:], 400, 1000, sha_of(data)).complete
    assert client.ask(BlobQuery(id=3, sha256=(sha_of(data),)))[0].missing == {}
    assert client.put(data[:10], 0, 1000, sha_of(data)).complete  # again: it is here


def test_an_upload_that_was_complete_but_not_checked_is_finished(client: Client, store: BlobStore) -> None:
    data = os.urandom(100)
    store.append(sha_of(data), 0, data)
    assert client.put(b"", 100, 100, sha_of(data)).complete
    assert client.put(b"", 0, 0, sha_of(b"")).complete and store.read(sha_of(b"")) == b""


def test_damaged_bytes_are_refused_and_can_be_sent_again(client: Client, store: BlobStore) -> None:
    data = os.urandom(100)
    reply = client.put(b"x" * 100, 0, 100, sha_of(data))
    assert isinstance(reply, ErrorReply) and reply.code == "blob_corrupt"
    assert not store.has(sha_of(data))
    assert client.put(data, 0, 100, sha_of(data)).complete


@pytest.mark.parametrize(
    ("message", "chunk", "code"),
    [
        (BlobGet(id=1, sha256="0" * 64, offset=0, length=1), None, "blob_missing"),
        (BlobGet(id=1, sha256="../../etc/passwd", offset=0, length=1), None, "store"),
        (BlobQuery(id=1, sha256=("/etc/passwd",)), None, "store"),
        (BlobQuery(id=1, sha256=("0" * 64,) * 10_001), None, "remote_protocol"),
        (BlobPut(id=1, sha256="xyz", offset=0, total=1), b"a", "store"),
        (BlobPut(id=1, sha256="0" * 64, offset=-1, total=1), b"a", "remote_protocol"),
        (BlobPut(id=1, sha256="0" * 64, offset=0, total=1), b"too long", "remote_protocol"),
        (BlobPut(id=1, sha256="0" * 64, offset=0, total=9), b"", "remote_protocol"),
        (BlobPut(id=1, sha256="0" * 64, offset=0, total=1 << 60), b"a", "remote_protocol"),
        (BlobPut(id=1, sha256="0" * 64, offset=0, total=1 << 21), b"a" * (BLOB_CHUNK_BYTES + 1), "remote_protocol"),
    ],
)
def test_what_is_refused_says_why(client: Client, message: Any, chunk: bytes | None, code: str) -> None:
    reply, _ = client.ask(message, *([] if chunk is None else [chunk]))
    assert isinstance(reply, ErrorReply) and (reply.id, reply.code) == (1, code)
    assert "/tmp" not in reply.message


def test_a_negative_range_is_refused(client: Client, store: BlobStore) -> None:
    sha = store.put_bytes(b"data")
    for offset, length in ((-1, 1), (0, 0), (0, -5)):
        reply, _ = client.ask(BlobGet(id=1, sha256=sha, offset=offset, length=length))
        assert isinstance(reply, ErrorReply)


def test_nonsense_is_dropped_and_the_rest_goes_on(client: Client, store: BlobStore) -> None:
    for frames in ([b""], [b"\xc1"], [encode(BlobGet(id=1, sha256="0", offset=0, length=1)), b"more"], [b"x"] * 5):
        client.socket.send_multipart(frames)
    sha = store.put_bytes(b"data")
    assert client.ask(BlobGet(id=9, sha256=sha, offset=1, length=2))[1] == b"at"
