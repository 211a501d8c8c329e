"""The journal's file on disk: one writer, appended and synced in groups, rewritten once most of it is dead."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from stageline.data import Buffer
from stageline.durable import sync
from stageline.errors import ConfigError, StoreError, StoreVersionError
from stageline_gateway.journal_format import HEAD, Contents, Index, Record, Span, frame, head, read, salt_of, span_at

NAME = "requests.journal"
DAMAGED = "requests.damaged"
REWRITE_BYTES = 16 << 20
"""The file is rewritten when it holds twice what matters, and this much more."""
JOIN_BELOW_BYTES = 64 << 10
ROOM_BYTES = 1 << 20

Entry = tuple[Record, Sequence[Buffer]]
"""A record and its body."""


class JournalFile:
    """Blocking; one thread at a time. `contents` is what was there before, `damaged` what was wrong with it.

    Raises `ConfigError` for a directory that cannot be used, that another gateway uses, or whose journal is of a newer
    Stageline.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME
        self.damaged = ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        except OSError as error:
            raise ConfigError(f"journal: cannot use the directory ({error.strerror}): choose another") from None
        try:
            self._salt, self.contents = self._recover()
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(f"journal: cannot be read or written ({error.strerror}): choose another") from None
        except ConfigError:
            os.close(self._lock)
            raise
        self._index = self.contents.index
        self._end = self.contents.end
        self._rewrite_at = 0

    @property
    def nbytes(self) -> int:
        """How long the file is."""
        return self._end

    @property
    def live_bytes(self) -> int:
        """How much of it matters."""
        return HEAD.size + self._index.nbytes

    def body(self, span: Span) -> bytes | None:
        """A record's body, None if it has been damaged since."""
        data = os.pread(self._fd, span.nbytes, span.start)
        whole = span_at(data, 0, self._salt) if len(data) == span.nbytes else None
        return None if whole is None else data[whole.body_at]

    def append(self, entries: Sequence[Entry]) -> None:
        """Write the records and have them on disk. Raises `OSError`: none of them counts then."""
        at, spans, pieces = self._end, list[Span](), list[Buffer]()
        for record, buffers in entries:
            span, parts = frame(record, buffers, self._salt, at)
            spans.append(span)
            pieces += parts
            at = span.end
        _write(self._fd, pieces, self._end)
        os.fdatasync(self._fd)
        for span in spans:
            self._index.add(span)
        self._end = at
        if self._end > max(2 * self.live_bytes + (0 if self._is_tight() else REWRITE_BYTES), self._rewrite_at):
            self._rewrite()

    def make_room(self) -> None:
        """Reserve space for what comes next. Raises `OSError` when there is none."""
        os.posix_fallocate(self._fd, self._end, ROOM_BYTES)

    def close(self) -> None:
        """Give the directory free."""
        os.close(self._fd)
        os.close(self._lock)

    # --- own ------------------------------------------------------------------------------------------------

    def _is_tight(self) -> bool:
        """Whether there may soon be no room to write what matters anew, beside the file as it is."""
        disk = os.fstatvfs(self._fd)
        return disk.f_bavail * disk.f_frsize < 2 * self.live_bytes + ROOM_BYTES

    def _recover(self) -> tuple[int, Contents]:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._begin()
        try:
            with mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ) as data:
                salt = salt_of(data)
                contents = read(data, salt)
        except StoreVersionError as error:
            raise ConfigError(f"journal: {error.message}: use the newer Stageline, or another directory") from None
        except (StoreError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            os.close(self._fd)
            self._path.replace(self._folder / DAMAGED)
            self.damaged = f"{error}; it was moved to {DAMAGED}"
            return self._begin()
        if contents.skipped:
            self.damaged = f"{contents.skipped} bytes are damaged and were skipped"
        os.ftruncate(self._fd, contents.end)
        return salt, contents

    def _begin(self) -> tuple[int, Contents]:
        salt = secrets.randbits(32)
        self._fd = _create(self._path, salt)
        sync(self._folder)
        return salt, Contents(Index(), HEAD.size, 0)

    def _rewrite(self) -> None:
        """Keep only what matters. Where the disk has no room for that, the file goes on growing for a while."""
        salt = secrets.randbits(32)
        temporary = self._path.with_suffix(".new")
        try:
            fd = _create(temporary, salt)
            try:
                index, end = self._copy(fd, salt)
                os.fsync(fd)
                temporary.replace(self._path)
            except OSError:
                os.close(fd)
                raise
        except OSError:
            temporary.unlink(missing_ok=True)
            self._rewrite_at = self._end + self._end // 2
            return
        os.close(self._fd)
        self._fd, self._salt, self._index, self._end, self._rewrite_at = fd, salt, index, end, 0
        with contextlib.suppress(OSError):  # the file is whole either way; which one a power failure leaves is open
            sync(self._folder)

    def _copy(self, fd: int, salt: int) -> tuple[Index, int]:
        index, at = Index(last=self._index.last), HEAD.size
        for old in self._index.spans():
            body = self.body(old)
            if body is not None:
                span, pieces = frame(old.record, [body], salt, at)
                _write(fd, pieces, at)
                index.add(span)
                at = span.end
        return index, at


def _lock(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigError("journal: another gateway uses this directory: give each its own") from None
    return lock


def _create(path: Path, salt: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write(fd, [head(salt)], 0)
        os.fsync(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _write(fd: int, pieces: Sequence[Buffer], at: int) -> None:
    """Write all of the pieces at an offset; small ones in one call."""
    small: list[Buffer] = []
    for piece in pieces:
        if memoryview(piece).nbytes < JOIN_BELOW_BYTES:
            small.append(piece)
            continue
        at = _write_one(fd, b"".join(small), at)
        small = []
        at = _write_one(fd, piece, at)
    _write_one(fd, b"".join(small), at)


def _write_one(fd: int, data: Buffer, at: int) -> int:
    left = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
    while left:
        written = os.pwrite(fd, left, at)
        left, at = left[written:], at + written
    return at
