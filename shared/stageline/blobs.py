"""Content-addressed files: a blob's name is the SHA-256 of its bytes, equal bytes are stored and moved once.

Layout under the root: `ab/abcdef…` for a complete blob, `partial/abcdef…` for a download under way. A file
gets its final name only after its bytes were checked and flushed, so a crash leaves no wrong blob behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Collection, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stageline.durable import sync
from stageline.errors import BlobCorruptError, BlobMissingError, StoreError
from stageline.fields import SHA256

CHUNK_BYTES = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk, or a share of it, is full."""

SPARE_BYTES, SPARE_SHARE = 64 << 20, 16
"""Left free on the disk by a store that may evict, of a small one a sixteenth: logs and databases need some, too."""


class BlobStore:
    """Blobs under `root`, at most `max_bytes` of them and fewer on a disk that fills up, least recently used evicted
    first; without `max_bytes` nothing is evicted.

    One process writes; any number read. Threads of the writer may share the object.
    """

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._pinned: frozenset[str] = frozenset()
        self._lock = threading.RLock()
        with _disk_errors("creating the blob store", 0):
            (root / "partial").mkdir(parents=True, exist_ok=True)
        self._total = sum(path.stat().st_size for path in self._files() if path.is_file())

    @property
    def total_bytes(self) -> int:
        """Bytes of all blobs, unfinished downloads included."""
        return self._total

    def has(self, sha: str) -> bool:
        """Whether the blob is complete here."""
        return self._final(sha).is_file()

    def intact(self, sha: str) -> bool:
        """Whether the blob is complete here and its bytes are right; a damaged one is removed, to be stored again."""
        try:
            self.verify(sha)
        except (BlobMissingError, BlobCorruptError):
            return False
        return True

    def path(self, sha: str) -> Path:
        """The blob's file, marked as just used; `BlobMissingError` if it is not here."""
        path = self._final(sha)
        try:
            with self._lock:  # `collect` looks and removes within it
                os.utime(path)
        except FileNotFoundError:
            raise BlobMissingError(f"blob {sha[:12]}… is not in the store: fetch it again") from None
        except OSError:  # a read-only store, or one of another user: it can still be read
            if not path.is_file():
                raise BlobMissingError(f"blob {sha[:12]}… is not in the store: fetch it again") from None
        return path

    def read(self, sha: str) -> bytes:
        """The blob's bytes, checked; raises as `verify` does."""
        data = self.path(sha).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha:
            self._refuse(sha)
        return data

    def verify(self, sha: str) -> None:
        """Check the blob's bytes; on a mismatch remove it and raise `BlobCorruptError`."""
        if sha256_of(self.path(sha)) != sha:
            self._refuse(sha)

    def _refuse(self, sha: str) -> None:
        with self._lock:
            self._remove(self._final(sha))
        raise BlobCorruptError(f"blob {sha[:12]}… did not match its SHA-256 and was removed: fetch it again")

    def put_bytes(self, data: bytes) -> str:
        """Store `data`; returns its SHA-256."""
        sha = hashlib.sha256(data).hexdigest()
        self._put(sha, len(data), lambda: iter((data,)))
        return sha

    def put_file(self, source: Path) -> str:
        """Store a copy of the file; returns its SHA-256."""
        sha = sha256_of(source)
        self._put(sha, source.stat().st_size, lambda: _chunks(source))
        return sha

    def _put(self, sha: str, nbytes: int, chunks: Callable[[], Iterator[bytes]]) -> None:
        with self._lock:
            if self.intact(sha):
                return
            self.discard_partial(sha)
            for chunk in chunks():
                self.append(sha, self.partial_size(sha), chunk, total=nbytes)
            if not nbytes:
                self._partial(sha).touch()
            self.commit(sha)

    def partial_size(self, sha: str) -> int:
        """How many bytes of an unfinished download are here: resume at this offset."""
        try:
            return self._partial(sha).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, sha: str, offset: int, chunk: bytes, *, total: int | None = None) -> int:
        """Add `chunk` at `offset` of an unfinished download; returns the size so far.

        `offset` must be `partial_size(sha)`, else `StoreError`. Give the blob's `total` bytes where known, to
        make room once and fail early.
        """
        with self._lock:
            have = self.partial_size(sha)
            if offset != have:
                raise StoreError(f"blob {sha[:12]}… continues at byte {have}, not {offset}: resume there")
            needed = max(len(chunk), (total or 0) - have)
            self._make_room(needed, sha)
            with _disk_errors(f"writing blob {sha[:12]}…", needed), self._partial(sha).open("ab") as file:
                try:
                    file.write(chunk)
                    file.flush()
                except OSError:
                    file.truncate(have)
                    raise
            self._total += len(chunk)
            return have + len(chunk)

    def commit(self, sha: str) -> Path:
        """Finish a download: flush, check and give the blob its name.

        `BlobCorruptError` if the bytes are wrong (the download is then discarded), `BlobMissingError` if none
        was begun.
        """
        with self._lock:
            partial, final = self._partial(sha), self._final(sha)
            if not partial.is_file():
                raise BlobMissingError(f"blob {sha[:12]}… has no download to finish: fetch it first")
            if sha256_of(partial) != sha:
                self.discard_partial(sha)
                raise BlobCorruptError(
                    f"blob {sha[:12]}… came damaged and was discarded: if it does so again, it is damaged at its "
                    "source, which `stageline models add` mends"
                )
            with _disk_errors(f"finishing blob {sha[:12]}…", 0):
                sync(partial)
                final.parent.mkdir(exist_ok=True)
                replaced = final.stat().st_size if final.is_file() else 0
                partial.replace(final)
                sync(final.parent)
            self._total -= replaced
            return final

    def discard_partial(self, sha: str) -> None:
        """Forget an unfinished download."""
        with self._lock:
            self._remove(self._partial(sha))

    def pin(self, shas: Collection[str]) -> None:
        """Never evict these blobs; replaces what was pinned before, which counts as used until now."""
        with self._lock:
            loose, self._pinned = self._pinned.difference(shas), frozenset(shas)
            for sha in loose:
                with suppress(BlobMissingError):
                    self.path(sha)

    def collect(self, before: float, keep: Container[str] = ()) -> tuple[int, int]:
        """Remove what was not used since `before` (seconds since 1970), unless pinned or in `keep`, and what is left
        of downloads that ended as long ago. Returns how many files went, and their bytes.

        May run beside anything: what `path` gave out a moment ago stays.
        """
        count = freed = 0
        for path in list(self._files()):
            if path.name in keep:
                continue
            with self._lock, suppress(FileNotFoundError):
                if path.name not in self._pinned and path.stat().st_mtime < before:
                    freed += self._remove(path)
                    count += 1
        return count, freed

    def _make_room(self, nbytes: int, keep: str) -> None:
        if self.max_bytes is None:
            return
        limit = min(self.max_bytes, self._total + room_beside(self.root))
        if self._total + nbytes <= limit:
            return
        files = [p for p in self._files() if p.name != keep and p.name not in self._pinned]
        removable = [(p.parent.name != "partial", p.stat().st_mtime_ns, p) for p in files]
        if self._total + nbytes - sum(p.stat().st_size for p in files) > self.max_bytes:
            raise StoreError(
                f"the blob store is full: {nbytes} more bytes are needed, its limit is {self.max_bytes}, and"
                " what is left is in use; raise the limit"
            )
        for _, _, path in sorted(removable):
            if self._total + nbytes <= limit:
                return
            self._remove(path)

    def _files(self) -> Iterator[Path]:
        """All blobs and downloads under way; other folders of the root are not ours."""
        return (path for folders in ("??", "partial") for path in self.root.glob(f"{folders}/*"))

    def _remove(self, path: Path) -> int:
        """The bytes that it had."""
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        self._total -= size
        return size

    def _final(self, sha: str) -> Path:
        return self.root / _checked(sha)[:2] / sha

    def _partial(self, sha: str) -> Path:
        return self.root / "partial" / _checked(sha)


def _checked(sha: str) -> str:
    if not SHA256.fullmatch(sha):
        raise StoreError(f"{sha!r:.80} is no blob address: it must be 64 lower-case hex digits")
    return sha


def room_beside(folder: Path) -> int:
    """Free bytes of a folder's disk beyond those that are left to others; below 0 where these are used already."""
    disk = shutil.disk_usage(folder)
    return disk.free - min(SPARE_BYTES, disk.total // SPARE_SHARE)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hex. Raises `OSError`."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _disk_errors(doing: str, nbytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StoreError(f"the disk is full: {doing} needs {nbytes} more bytes; free some space") from error
        raise StoreError(f"{doing} failed: {error.strerror}; check the data directory") from error
