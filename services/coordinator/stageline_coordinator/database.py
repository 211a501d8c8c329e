"""The coordinator's SQLite file: its schema, how it is opened, and the lock on its directory."""

from __future__ import annotations

import fcntl
import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from stageline.errors import StoreError, StoreVersionError

from . import journal

SCHEMA_VERSION = 6
LOCK_FILE, DATABASE = "coordinator.lock", "coordinator.sqlite3"

_SCHEMA_1 = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE models (name TEXT PRIMARY KEY, manifest TEXT NOT NULL, added INTEGER NOT NULL)",
    "CREATE TABLE profiles (graph TEXT, fingerprint TEXT, batch INTEGER, seconds REAL NOT NULL,"
    " workspace_bytes INTEGER NOT NULL, PRIMARY KEY (graph, fingerprint, batch)) WITHOUT ROWID",
    "CREATE TABLE plan (id INTEGER PRIMARY KEY CHECK (id = 0), body BLOB NOT NULL)",
    "CREATE TABLE nodes (name TEXT PRIMARY KEY, hello BLOB NOT NULL)",
)
_SCHEMA_2 = (
    "ALTER TABLE profiles ADD COLUMN error REAL NOT NULL DEFAULT 0",
    "CREATE TABLE links (source TEXT, target TEXT, bytes_per_s REAL NOT NULL, latency_s REAL NOT NULL,"
    " error REAL NOT NULL, latency_error REAL NOT NULL, PRIMARY KEY (source, target)) WITHOUT ROWID",
)
_SCHEMA_4 = (
    "CREATE TABLE wishes (subject TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID",
    *journal.triggers("wish"),
)
_SCHEMA_5 = (
    "CREATE TABLE keys (name TEXT PRIMARY KEY, public TEXT NOT NULL, revoked INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE tokens (id TEXT PRIMARY KEY, hash TEXT NOT NULL, uses INTEGER NOT NULL, expires REAL NOT NULL)"
    " WITHOUT ROWID",
    *journal.triggers("key"),
    *journal.triggers("token"),
)
_SCHEMA_6 = (
    "CREATE TABLE old_keys (public TEXT PRIMARY KEY, name TEXT NOT NULL, until REAL NOT NULL,"
    " filed INTEGER NOT NULL) WITHOUT ROWID",
    *journal.triggers("old_key"),
)
_STEPS = (_SCHEMA_1, _SCHEMA_2, journal.SCHEMA, _SCHEMA_4, _SCHEMA_5, _SCHEMA_6)
"""What makes each version of the schema out of the one before."""


def take_lock(data_dir: Path) -> int:
    """The descriptor that holds the directory against other processes. Raises `StoreError`."""
    path = data_dir / LOCK_FILE
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot use {data_dir} as data directory ({error.strerror}): choose another") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(
            f"a coordinator already uses {data_dir} (pid {holder}): talk to it, stop it, or use another data directory"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def check_version(db: sqlite3.Connection, data_dir: Path) -> int:
    """The version of its schema. Raises `StoreVersionError` for one that we do not know."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > SCHEMA_VERSION:
        raise StoreVersionError(
            f"{data_dir} was written by a newer Stageline (schema {found}, this one knows {SCHEMA_VERSION}): "
            "upgrade, or use another data directory"
        )
    return found


def open_database(path: Path) -> sqlite3.Connection:
    """Autocommit: every statement is on disk when it returns."""
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        found = check_version(db, path.parent)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if found < SCHEMA_VERSION:
            db.execute("BEGIN IMMEDIATE")
            for statement in itertools.chain.from_iterable(_STEPS[found:]):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute("COMMIT")
        return db
    except BaseException:
        db.close()
        raise


@contextmanager
def disk_errors() -> Iterator[None]:
    """SQLite's errors as `StoreError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"the coordinator's database failed ({error}): check the data directory and its disk"
        ) from None
    except msgspec.DecodeError as error:
        raise StoreError(f"the coordinator's database holds what it cannot read ({error}): restore a backup") from None
