"""Files on their way into a container and out of it: tar archives, never whole in memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from stageline.blobs import CHUNK_BYTES
from stageline.errors import ConfigError

Sent = Callable[[int, int], None]
"""Called with the bytes that went so far, and with how many there are."""


def streamed(folder: str, files: Mapping[str, Path | None], sent: Sent) -> Iterator[bytes]:
    """An archive of these files under `folder`, piece by piece: root's, for all to read; None is an empty file.

    Raises `ConfigError` for one that cannot be read, or changes meanwhile.
    """
    names = {str(PurePosixPath(folder, name)): path for name, path in files.items()}
    total, done = sum(_size(path) for path in names.values()), 0
    folders = {folder, *(str(one) for name in names for one in PurePosixPath(name).parents)} - {"."}
    for name in sorted(folders):
        yield _header(name, tarfile.DIRTYPE, 0o755, 0)
    for name, path in names.items():
        size = _size(path)
        yield _header(name, tarfile.REGTYPE, 0o644, size)
        for piece in _pieces(path, size) if path else ():
            done += len(piece)
            yield piece
            sent(done, total)
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def members(pieces: Iterator[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The files of an archive that comes piece by piece, each to be read before the next; folders are left out.

    What is neither, such as a link, comes as an empty file of its kind. Raises `tarfile.TarError`.
    """
    with tarfile.open(fileobj=io.BufferedReader(_Pieces(pieces), CHUNK_BYTES), mode="r|") as archive:
        for member in archive:
            if not member.isdir():
                yield member, (archive.extractfile(member) if member.isreg() else None) or io.BytesIO()


def _size(path: Path | None) -> int:
    if path is None:
        return 0
    try:
        return path.stat().st_size
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _header(name: str, kind: bytes, mode: int, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry.tobuf(tarfile.PAX_FORMAT)


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            left = size
            while left and (piece := file.read(min(left, CHUNK_BYTES))):
                left -= len(piece)
                yield piece
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if left:
        raise ConfigError(f"{path} got shorter while it was read: try again when it is written")


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase`."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
