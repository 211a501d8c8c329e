"""What the coordinator must not forget, in SQLite (WAL, synchronous=FULL), and the blobs beside it.

Every method that changes something returns only once that is on disk. One process at a time: `Store` holds a lock
on the data directory, so two coordinators, or one and an offline command, never share it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from types import TracebackType

import msgspec

from stageline.blobs import BlobStore
from stageline.errors import StoreError, StoreVersionError
from stageline.messages import Hello
from stageline.plan import Plan
from stageline.wire import encode

from .figures import Figure, FigureKey
from .network import Link

SCHEMA_VERSION = 2
LOCK_FILE, DATABASE, BLOBS_DIR = "coordinator.lock", "coordinator.sqlite3", "blobs"

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
_STEPS = (_SCHEMA_1, _SCHEMA_2)
"""What makes each version of the schema out of the one before."""


class Store:
    """Raises `StoreError` when the directory is in use or unusable, `StoreVersionError` when a newer one wrote it."""

    def __init__(self, data_dir: Path) -> None:
        self._lock = _take_lock(data_dir)
        try:
            self.blobs = BlobStore(data_dir / BLOBS_DIR)
            with _disk_errors():
                self._db = _open(data_dir / DATABASE)
            self.cluster = self._meta("cluster") or self._set_meta("cluster", uuid.uuid4().hex[:12])
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and give the directory free."""
        self._db.close()
        os.close(self._lock)

    # --- terms and ports ------------------------------------------------------------------------------------

    def begin_term(self) -> int:
        """The number of this start, larger than any before."""
        term = int(self._meta("term") or 0) + 1
        self._set_meta("term", str(term))
        return term

    def ports(self) -> dict[str, int]:
        """The ports of the last run, by channel."""
        found: dict[str, int] = msgspec.json.decode(self._meta("ports") or "{}", type=dict[str, int])
        return found

    def save_ports(self, ports: Mapping[str, int]) -> None:
        self._set_meta("ports", msgspec.json.encode(ports).decode())

    # --- models ---------------------------------------------------------------------------------------------

    def models(self) -> dict[str, str]:
        """SHA-256 of each model's manifest by name, in the order in which they were added."""
        with _disk_errors():
            return dict(self._db.execute("SELECT name, manifest FROM models ORDER BY added"))

    def put_model(self, name: str, manifest: str) -> None:
        """Add, or replace in place."""
        self._write(
            "INSERT INTO models VALUES (?, ?, (SELECT coalesce(max(added), 0) + 1 FROM models))"
            " ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest",
            (name, manifest),
        )

    def remove_model(self, name: str) -> None:
        self._write("DELETE FROM models WHERE name = ?", (name,))

    # --- profiles, plan, nodes ------------------------------------------------------------------------------

    def profiles(self) -> dict[FigureKey, Figure]:
        """What blocks cost."""
        query = "SELECT graph, fingerprint, batch, seconds, workspace_bytes, error FROM profiles"
        with _disk_errors():
            return {FigureKey(*row[:3]): Figure(*row[3:]) for row in self._db.execute(query)}

    def put_profile(self, key: FigureKey, figure: Figure) -> None:
        self._write(
            "INSERT OR REPLACE INTO profiles VALUES (?, ?, ?, ?, ?, ?)",
            (*key, figure.seconds, figure.workspace_bytes, figure.error),
        )

    def links(self) -> dict[tuple[str, str], Link]:
        """Links by the identities of their ends, (from, to)."""
        query = "SELECT source, target, bytes_per_s, latency_s, error, latency_error FROM links"
        with _disk_errors():
            return {(row[0], row[1]): Link(*row[2:]) for row in self._db.execute(query)}

    def put_links(self, links: Mapping[tuple[str, str], Link]) -> None:
        """All of them at once, or none."""
        rows = [(*ends, *astuple(link)) for ends, link in links.items()]
        with _disk_errors():
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def plan(self) -> Plan | None:
        """The plan committed last."""
        with _disk_errors():
            row = self._db.execute("SELECT body FROM plan").fetchone()
            return msgspec.msgpack.decode(row[0], type=Plan) if row else None

    def put_plan(self, plan: Plan) -> None:
        self._write("INSERT OR REPLACE INTO plan VALUES (0, ?)", (encode(plan),))

    def nodes(self) -> tuple[Hello, ...]:
        """Every worker that ever joined and was not forgotten."""
        with _disk_errors():
            rows = self._db.execute("SELECT hello FROM nodes ORDER BY name")
            return tuple(msgspec.msgpack.decode(row[0], type=Hello) for row in rows)

    def put_node(self, hello: Hello) -> None:
        self._write("INSERT OR REPLACE INTO nodes VALUES (?, ?)", (hello.name, encode(hello)))

    def forget_node(self, name: str) -> None:
        identity = f"agent:{name}"
        self._write("DELETE FROM links WHERE source = ? OR target = ?", (identity, identity))
        self._write("DELETE FROM nodes WHERE name = ?", (name,))

    # --- helpers --------------------------------------------------------------------------------------------

    def _meta(self, key: str) -> str:
        with _disk_errors():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else ""

    def _set_meta(self, key: str, value: str) -> str:
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        return value

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with _disk_errors():
            self._db.execute(statement, values)


def _take_lock(data_dir: Path) -> int:
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


def _open(path: Path) -> sqlite3.Connection:
    """Autocommit: every statement is on disk when it returns."""
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
        if found > SCHEMA_VERSION:
            raise StoreVersionError(
                f"{path.parent} was written by a newer Stageline (schema {found}, this one knows {SCHEMA_VERSION}): "
                "upgrade, or use another data directory"
            )
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
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"the coordinator's database failed ({error}): check the data directory and its disk"
        ) from None
    except msgspec.DecodeError as error:
        raise StoreError(f"the coordinator's database holds what it cannot read ({error}): restore a backup") from None
