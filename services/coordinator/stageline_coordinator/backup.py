"""A cluster's data directory as one tar archive, taken while the coordinator runs, and back.

::

    backup.json             what the archive holds: `Contents`
    coordinator.sqlite3     a snapshot by SQLite's backup API, all committed changes and no half ones
    blobs/SHA256            what the models of that snapshot need; blobs never change
    keys/…                  only where asked

What is restored is checked by its SHA-256 before it counts. The database comes last, by a rename: until then the
directory holds no cluster, and a restore that was cut short is just run again.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import msgspec

from stageline import __version__
from stageline.blobs import CHUNK_BYTES, BlobStore
from stageline.curve import write_secret
from stageline.durable import sync
from stageline.errors import BlobMissingError, StoreError, StoreVersionError

from .collector import needed
from .database import DATABASE, SCHEMA_VERSION, check_version, disk_errors, take_lock
from .store import BLOBS_DIR, Store

FORMAT = 1
INDEX, BLOBS, KEYS = "backup.json", "blobs/", "keys/"
KEY_FILES = ("*.key", "*.pub", "*.key.next", "*.pub.next")
MAX_INDEX_BYTES = 256 << 20
RESTORING = "restoring"


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The first member of an archive. Files by name, or by SHA-256 in `blobs`; sizes in bytes."""

    format: int
    schema: int
    stageline: str
    cluster: str
    created: float
    models: tuple[str, ...]
    database: str
    blobs: dict[str, int]
    keys: dict[str, str] = {}


def back_up(data_dir: Path, into: IO[bytes], keys: Path | None = None) -> Contents:
    """Write the archive to `into`, the key files below `keys` with it; returns what it holds.

    Raises `StoreError` where there is no cluster, `StoreVersionError` where a newer Stageline wrote it, and
    `BlobMissingError` or `BlobCorruptError` for a model that is not whole.
    """
    if not (data_dir / DATABASE).is_file():
        raise StoreError(f"{data_dir} holds no cluster: name the coordinator's data directory by --data-dir")
    with tempfile.TemporaryDirectory(prefix="stageline-backup-") as scratch:
        _snapshot(data_dir, Path(scratch) / DATABASE)
        with Store(Path(scratch)) as copy:
            models, cluster = copy.models(), copy.cluster
        database = (Path(scratch) / DATABASE).read_bytes()
        blobs = BlobStore(data_dir / BLOBS_DIR)
        sizes = {sha: _size(blobs, sha) for sha in sorted(needed(blobs, models.values()))}
        found = _key_files(keys) if keys is not None else {}
        contents = Contents(
            format=FORMAT,
            schema=SCHEMA_VERSION,
            stageline=__version__,
            cluster=cluster,
            created=time.time(),
            models=tuple(models),
            database=_sha256(database),
            blobs=sizes,
            keys={name: _sha256(data) for name, data in found.items()},
        )
        with tarfile.open(fileobj=into, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, INDEX, msgspec.json.encode(contents))
            _add(archive, DATABASE, database)
            for sha, size in sizes.items():
                _add_blob(archive, blobs, sha, size)
            for name, data in found.items():
                _add(archive, KEYS + name, data)
        return contents


def restore(data_dir: Path, source: IO[bytes], keys: Path | None = None) -> Contents:
    """Make `data_dir` hold the cluster of the archive, and `keys` its keys, which are left out where that is None.

    The cluster goes on as itself under a new term; tokens that were given out serve no more. Raises `StoreError` where
    the directory is in use or holds a cluster, or the archive is none, damaged or cut short; `StoreVersionError` where
    a newer Stageline wrote it. What was there before stays as it was.
    """
    lock = take_lock(data_dir)
    try:
        if (data_dir / DATABASE).exists():
            raise StoreError(f"{data_dir} holds a cluster already: restore into an empty directory")
        scratch = data_dir / RESTORING
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            contents = _extract(source, scratch, BlobStore(data_dir / BLOBS_DIR))
            with Store(scratch) as store:  # brings an older schema up to ours
                store.revive()
            if keys is not None:
                _put_keys(scratch / KEYS, contents.keys, keys)
            sync(scratch / DATABASE)
            (scratch / DATABASE).replace(data_dir / DATABASE)
            sync(data_dir)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return contents
    finally:
        os.close(lock)


# --- writing --------------------------------------------------------------------------------------------------


def _snapshot(data_dir: Path, target: Path) -> None:
    source = f"{(data_dir / DATABASE).absolute().as_uri()}?mode=rw"
    with (
        disk_errors(),
        closing(sqlite3.connect(source, uri=True, timeout=30.0)) as found,
        closing(sqlite3.connect(target)) as copy,
    ):
        check_version(found, data_dir)
        found.backup(copy)


def _size(blobs: BlobStore, sha: str) -> int:
    """Marks it as used, so that it is not collected meanwhile."""
    try:
        return blobs.path(sha).stat().st_size
    except BlobMissingError:
        raise BlobMissingError(
            f"blob {sha[:12]}… of a model is not in the store: import the model again, or remove it"
        ) from None


def _key_files(directory: Path) -> dict[str, bytes]:
    found = {
        str(path.relative_to(directory)): path.read_bytes()
        for pattern in KEY_FILES
        for path in sorted(directory.rglob(pattern))
    }
    if not found:
        raise StoreError(f"{directory} holds no keys: name the directory that `stageline keys init` made")
    return found


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_member(name, len(data)), io.BytesIO(data))


def _add_blob(archive: tarfile.TarFile, blobs: BlobStore, sha: str, size: int) -> None:
    blobs.verify(sha)
    with blobs.path(sha).open("rb") as file:
        archive.addfile(_member(BLOBS + sha, size), file)


def _member(name: str, size: int) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.mode = size, 0o600
    return found


# --- reading --------------------------------------------------------------------------------------------------


def _extract(source: IO[bytes], scratch: Path, blobs: BlobStore) -> Contents:
    """Database and keys go to `scratch`, blobs to `blobs`, each checked."""
    with _tar_errors(), tarfile.open(fileobj=source, mode="r|") as archive:
        members = _files(archive)
        name, size, file = next(members, ("", 0, io.BytesIO()))
        if name != INDEX or size > MAX_INDEX_BYTES:
            raise StoreError(f"this is no backup of a cluster: it does not begin with {INDEX}")
        contents = _contents(file.read())
        wanted = {DATABASE: contents.database, **{KEYS + key: sha for key, sha in contents.keys.items()}}
        left = {*wanted, *(BLOBS + sha for sha in contents.blobs)}
        for name, size, file in members:
            if name not in left:
                raise StoreError(f"the backup is damaged: it holds {name[:80]!r}, which its index does not name")
            if name in wanted:
                _write(scratch, name, file.read(), wanted[name])
            else:
                _take_blob(blobs, name.removeprefix(BLOBS), size, file)
            left.remove(name)
    if left:
        raise StoreError(f"the backup is cut short: it lacks {min(left)} and {len(left) - 1} more")
    return contents


def _files(archive: tarfile.TarFile) -> Iterator[tuple[str, int, IO[bytes]]]:
    for member in archive:
        file = archive.extractfile(member) if member.isreg() else None
        if file is None:
            raise StoreError(f"the backup is damaged: {member.name[:80]!r} is no file")
        yield member.name, member.size, file


def _contents(data: bytes) -> Contents:
    try:
        contents = msgspec.json.decode(data, type=Contents)
    except msgspec.DecodeError as error:
        raise StoreError(f"the backup's index cannot be read: {error}") from None
    if contents.format > FORMAT or contents.schema > SCHEMA_VERSION:
        raise StoreVersionError(
            f"the backup was made by a newer Stageline ({contents.stageline}, schema {contents.schema}; this one "
            f"knows {SCHEMA_VERSION}): upgrade first"
        )
    odd = [name for name in contents.keys if name.startswith("/") or ".." in Path(name).parts]
    if odd:
        raise StoreError(f"the backup is damaged: {odd[0][:80]!r} is no name of a key")
    return contents


def _write(scratch: Path, name: str, data: bytes, sha: str) -> None:
    if _sha256(data) != sha:
        raise StoreError(f"the backup is damaged: {name} does not match its SHA-256")
    write_secret(scratch / name, data)


def _take_blob(blobs: BlobStore, sha: str, size: int, file: IO[bytes]) -> None:
    if blobs.intact(sha):
        return
    blobs.discard_partial(sha)
    done = blobs.append(sha, 0, b"", total=size)
    while chunk := file.read(CHUNK_BYTES):
        done = blobs.append(sha, done, chunk)
    blobs.commit(sha)


def _put_keys(found: Path, names: Mapping[str, str], target: Path) -> None:
    if not names:
        raise StoreError("the backup holds no keys: restore without them")
    keys = {target / name: (found / name).read_bytes() for name in names}
    others = [path for path, data in keys.items() if path.exists() and path.read_bytes() != data]
    if others:
        raise StoreError(f"{others[0]} is another key: restore the keys into an empty directory")
    for path, data in keys.items():
        if not path.exists():
            write_secret(path, data)


@contextmanager
def _tar_errors() -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise StoreError(f"this is no backup of a cluster, or it is cut short: {error}") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
