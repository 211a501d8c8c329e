"""An administrator's upload: cut short it goes on where it was, by itself or in the next command; not for ever."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stageline.admin import UPLOAD_RETRIES, AdminClient
from stageline.blobs import BlobStore
from stageline.errors import ConnectionLostError, StoreError
from stageline.messages import BLOB_CHUNK_BYTES, BLOBS, CONTROL, Welcome
from stageline.sockets import Socket, Sockets
from stageline_coordinator.blob_server import BlobThread

CHUNKS = 12
SIZE = CHUNKS * BLOB_CHUNK_BYTES
CUT = 4 * BLOB_CHUNK_BYTES


class Coordinator:
    """The blob channel of one, and whoever asks hears where it is; it can stop, and start again elsewhere."""

    def __init__(self, store: BlobStore) -> None:
        self.greeted = 0
        self.start(store)

    def start(self, store: BlobStore) -> None:
        self._sockets = Sockets()
        socket, self.address = self._sockets.bind(BLOBS, "tcp://127.0.0.1:0")
        self._thread: BlobThread | None = BlobThread(socket, store)

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._sockets.close()
        self._thread = None

    def greet(self, admin: AdminClient) -> tuple[Socket, Welcome]:
        self.greeted += 1
        admin._leader = "tcp://127.0.0.1:1"
        welcome = Welcome(term=1, plan="", blobs=self.address, ping_interval_s=1.0, cluster="c")
        return admin._sockets.connect(CONTROL, admin._leader), welcome


@pytest.fixture
def there(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "there")


@pytest.fixture
def coordinator(there: BlobStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    found = Coordinator(there)
    monkeypatch.setattr(AdminClient, "_greet", lambda admin: found.greet(admin))
    yield found
    found.stop()


@pytest.fixture
def here(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "here")


@pytest.fixture
def blob(here: BlobStore) -> str:
    return here.put_bytes(os.urandom(SIZE))


def once(at: int, do: Callable[[], None]) -> Callable[[int, int], None]:
    """Does that when so many bytes are sent."""
    done: list[int] = []

    def progress(sent: int, total: int) -> None:
        if sent >= at and not done:
            done.append(sent)
            do()

    return progress


def interrupt() -> None:
    raise KeyboardInterrupt


def test_the_next_command_goes_on_where_one_was_interrupted(
    coordinator: Coordinator, there: BlobStore, here: BlobStore, blob: str
) -> None:
    with AdminClient("tcp://127.0.0.1:1") as admin, pytest.raises(KeyboardInterrupt):
        admin.upload(here, [blob], once(CUT, interrupt))
    coordinator.stop()  # so that nothing more of it arrives
    reached = there.partial_size(blob)
    assert CUT <= reached < SIZE
    coordinator.start(there)
    with AdminClient("tcp://127.0.0.1:1") as admin:
        assert admin.upload(here, [blob]) == SIZE - reached
        assert admin.upload(here, [blob]) == 0
    assert there.read(blob) == here.read(blob)


def test_it_goes_on_by_itself_with_a_coordinator_that_comes_back(
    coordinator: Coordinator, there: BlobStore, here: BlobStore, blob: str
) -> None:
    def restart() -> None:
        coordinator.stop()
        coordinator.start(there)

    with AdminClient("tcp://127.0.0.1:1", timeout_s=0.5) as admin:
        assert admin.upload(here, [blob], once(CUT, restart)) <= SIZE, "nothing twice"
    assert there.read(blob) == here.read(blob) and coordinator.greeted == 2


def test_it_goes_on_with_whoever_leads_now(
    coordinator: Coordinator, tmp_path: Path, here: BlobStore, blob: str
) -> None:
    other = BlobStore(tmp_path / "other")

    def change() -> None:
        coordinator.stop()
        coordinator.start(other)

    with AdminClient("tcp://127.0.0.1:1", timeout_s=0.5) as admin:
        admin.upload(here, [blob], once(CUT, change))
    assert other.read(blob) == here.read(blob)


def test_it_ends_when_nobody_comes_back(coordinator: Coordinator, here: BlobStore, blob: str) -> None:
    with AdminClient("tcp://127.0.0.1:1", timeout_s=0.1) as admin, pytest.raises(ConnectionLostError):
        admin.upload(here, [blob], once(CUT, coordinator.stop))
    assert coordinator.greeted == 1 + UPLOAD_RETRIES


def test_it_ends_when_all_that_arrives_is_thrown_away(
    coordinator: Coordinator, there: BlobStore, here: BlobStore, blob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, full = BlobStore.append, [0]

    def filling(store: BlobStore, sha: str, offset: int, chunk: bytes, *, total: int | None = None) -> int:
        if offset >= CUT:
            full[0] += 1
            store.discard_partial(sha)
            raise StoreError("the disk is full")
        return append(store, sha, offset, chunk, total=total)

    monkeypatch.setattr(BlobStore, "append", filling)
    with AdminClient("tcp://127.0.0.1:1") as admin, pytest.raises(StoreError, match="the disk is full"):
        admin.upload(here, [blob])
    assert full[0]
