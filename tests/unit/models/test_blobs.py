"""The content-addressed store: bytes checked, downloads resumed, old blobs evicted, a full disk said plainly."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from stageline.blobs import SPARE_BYTES, BlobStore
from stageline.errors import BlobCorruptError, BlobMissingError, StoreError


def sha_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_equal_bytes_are_stored_once(store: BlobStore, tmp_path: Path) -> None:
    sha = store.put_bytes(b"weights")
    (tmp_path / "copy").write_bytes(b"weights")
    assert store.put_file(tmp_path / "copy") == sha == sha_of(b"weights")
    assert store.read(sha) == b"weights"
    assert store.path(sha) == store.root / sha[:2] / sha
    assert store.total_bytes == 7
    assert BlobStore(store.root).total_bytes == 7


def test_an_empty_blob(store: BlobStore) -> None:
    assert store.read(store.put_bytes(b"")) == b""


def test_a_missing_blob(store: BlobStore) -> None:
    with pytest.raises(BlobMissingError, match="fetch it again"):
        store.path("0" * 64)
    with pytest.raises(BlobMissingError):
        store.commit("0" * 64)


@pytest.mark.parametrize("check", ["verify", "read"])
def test_a_damaged_blob_is_removed(store: BlobStore, check: str) -> None:
    sha = store.put_bytes(b"weights")
    store.path(sha).write_bytes(b"weightz")
    with pytest.raises(BlobCorruptError):
        getattr(store, check)(sha)
    assert not store.has(sha)
    assert store.total_bytes == 0


@pytest.mark.parametrize("sha", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 63 + "\n", "é" * 64])
def test_addresses_are_checked_before_any_path_is_built(store: BlobStore, sha: str) -> None:
    for call in (store.has, store.path, store.read, store.partial_size, store.commit):
        with pytest.raises(StoreError, match="no blob address"):
            call(sha)


def test_a_download_resumes_after_a_restart(store: BlobStore) -> None:
    data = os.urandom(3000)
    sha = sha_of(data)
    assert store.append(sha, 0, data[:1000]) == 1000
    again = BlobStore(store.root)
    assert again.partial_size(sha) == 1000
    with pytest.raises(StoreError, match="continues at byte 1000, not 0"):
        again.append(sha, 0, data)
    again.append(sha, 1000, data[1000:])
    assert not again.has(sha)
    assert again.commit(sha).read_bytes() == data
    assert again.partial_size(sha) == 0
    assert again.total_bytes == 3000


def test_a_download_with_wrong_bytes_is_discarded(store: BlobStore) -> None:
    sha = sha_of(b"right")
    store.append(sha, 0, b"wrong")
    with pytest.raises(BlobCorruptError):
        store.commit(sha)
    assert not store.has(sha)
    assert store.partial_size(sha) == 0
    assert store.total_bytes == 0


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, max_bytes=250)
    old, older = store.put_bytes(b"a" * 100), store.put_bytes(b"b" * 100)
    os.utime(store.path(older), ns=(1, 1))
    os.utime(store.root / old[:2] / old, ns=(2, 2))
    new = store.put_bytes(b"c" * 100)
    assert (store.has(older), store.has(old), store.has(new)) == (False, True, True)


def test_pinned_blobs_stay(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, max_bytes=250)
    pinned, other = store.put_bytes(b"a" * 100), store.put_bytes(b"b" * 100)
    os.utime(store.path(pinned), ns=(1, 1))
    store.pin({pinned})
    store.put_bytes(b"c" * 100)
    assert store.has(pinned)
    assert not store.has(other)


def test_what_cannot_fit_is_refused_and_evicts_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, max_bytes=250)
    kept = store.put_bytes(b"a" * 100)
    store.pin({kept})
    loose = store.put_bytes(b"b" * 100)
    with pytest.raises(StoreError, match="200 more bytes are needed"):
        store.put_bytes(b"c" * 200)
    assert store.has(kept)
    assert store.has(loose)


def test_a_full_disk_is_named(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreError, match=r"the disk is full: .* needs 7 more bytes"):
        store.put_bytes(b"weights")


def test_a_damaged_blob_is_mended_by_storing_it_again(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    sha = store.put_bytes(b"weights")
    store.path(sha).write_bytes(b"wEights")
    assert store.put_bytes(b"weights") == sha
    assert store.read(sha) == b"weights"
    store.path(sha).write_bytes(b"wEights")
    assert not store.intact(sha)
    assert not store.has(sha)


def aged(store: BlobStore, sha: str, mtime: float = 1000.0) -> str:
    """That blob, or the download of it, last used then."""
    for path in store.root.glob(f"*/{sha}"):
        os.utime(path, (mtime, mtime))
    return sha


def test_what_is_unused_for_long_is_collected(store: BlobStore) -> None:
    old, kept, pinned = (aged(store, store.put_bytes(bytes([i]) * 10)) for i in range(3))
    fresh = store.put_bytes(b"fresh")
    begun, going_on = sha_of(b"ab"), sha_of(b"cd")
    for sha in (begun, going_on):
        store.append(sha, 0, b"a")
        aged(store, sha)
    store.pin({pinned})
    assert store.collect(2000.0, keep={kept, going_on}) == (2, 11)
    assert [store.has(sha) for sha in (old, kept, pinned, fresh)] == [False, True, True, True]
    assert (store.partial_size(begun), store.partial_size(going_on)) == (0, 1)
    assert store.total_bytes == 26
    assert store.collect(2000.0, keep={kept, going_on}) == (0, 0)


def test_what_was_just_asked_for_is_not_collected(store: BlobStore) -> None:
    asked, intact = (aged(store, store.put_bytes(bytes([i]))) for i in range(2))
    store.path(asked)
    assert store.intact(intact)
    assert store.collect(2000.0) == (0, 0)


def test_what_was_pinned_counts_as_used_until_then(store: BlobStore) -> None:
    sha = aged(store, store.put_bytes(b"weights"))
    store.pin({sha})
    aged(store, sha)
    store.pin(())
    assert store.collect(2000.0) == (0, 0)
    assert store.has(sha)


def test_a_cache_makes_way_on_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, other = BlobStore(tmp_path / "cache", max_bytes=1 << 40), BlobStore(tmp_path / "other")
    disk = shutil.disk_usage(tmp_path)
    size = 200

    def usage(path: Path) -> tuple[int, int, int]:
        return disk._replace(free=SPARE_BYTES + size - cache.total_bytes)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    old, pinned = aged(cache, cache.put_bytes(b"a" * 100)), aged(cache, cache.put_bytes(b"b" * 100))
    cache.pin({pinned})
    new = cache.put_bytes(b"c" * 100)
    assert [cache.has(sha) for sha in (old, pinned, new)] == [False, True, True]
    cache.put_bytes(b"d" * 300)  # only the disk itself says that it is full
    assert cache.has(pinned)
    other.put_bytes(b"e" * 300)  # what may evict nothing does not ask


def test_a_small_disk_is_used_but_for_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlobStore(tmp_path / "cache", max_bytes=1 << 40)
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(total=SPARE_BYTES, free=SPARE_BYTES // 2))
    old = aged(cache, cache.put_bytes(b"a" * 100))
    cache.put_bytes(b"b" * 100)
    assert cache.has(old)
