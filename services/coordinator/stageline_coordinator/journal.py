"""Which row of the store changed last, where and when: how two coordinators come to have the same.

Every change of a row is stamped by a trigger: (term of the coordinator that made it, its count of changes), which no
other change has. A row that arrives from the other coordinator replaces ours if its stamp is higher, so both end up
with the same rows whatever the order and repetition: a map of last-writer-wins registers (Shapiro, Preguica, Baquero,
Zawirski: "A comprehensive study of convergent and commutative replicated data types", 2011). Rows that were removed
leave their stamp behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from stageline.messages import StoreRow


@dataclass(frozen=True)
class Table:
    """A table whose rows both coordinators have; `keys` are its primary key."""

    name: str
    keys: tuple[str, ...]


TABLES = {
    "model": Table("models", ("name",)),
    "profile": Table("profiles", ("graph", "fingerprint", "batch")),
    "link": Table("links", ("source", "target")),
    "node": Table("nodes", ("name",)),
    "plan": Table("plan", ("id",)),
    "wish": Table("wishes", ("subject",)),
    "key": Table("keys", ("name",)),
    "token": Table("tokens", ("id",)),
    "old_key": Table("old_keys", ("public",)),
}
FIRST = ("model", "profile", "link", "node", "plan")
"""Tables of the schema that the journal came with; `triggers` are for those that came later."""
SEPARATOR = "\x1f"
BATCH_ROWS, BATCH_BYTES = 500, 4 << 20
"""Of one message, about."""


def triggers(kind: str) -> tuple[str, ...]:
    """What keeps the journal of that table."""
    table = TABLES[kind]
    term = "coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'term'), 0)"
    number = "(SELECT coalesce(max(local), 0) + 1 FROM journal)"

    def stamp(when: str, row: str, gone: int) -> str:
        key = " || char(31) || ".join(f"{row}.{column}" for column in table.keys)
        this = f"kind = '{kind}' AND key = {key}"
        return (  # no OR REPLACE: what fires a trigger brings its own way to treat conflicts
            f"CREATE TRIGGER {table.name}_{when.lower()} AFTER {when} ON {table.name} BEGIN"
            f" UPDATE journal SET term = {term}, number = {number}, gone = {gone}, local = {number} WHERE {this};"
            f" INSERT INTO journal SELECT '{kind}', {key}, {term}, {number}, {gone}, {number}"
            f" WHERE NOT EXISTS (SELECT 1 FROM journal WHERE {this}); END"
        )

    first = table.keys[0]
    stamps = stamp("INSERT", "NEW", 0), stamp("UPDATE", "NEW", 0), stamp("DELETE", "OLD", 1)
    return (*stamps, f"UPDATE {table.name} SET {first} = {first}")  # stamps what is there already


SCHEMA = (
    "CREATE TABLE journal (kind TEXT, key TEXT, term INTEGER NOT NULL, number INTEGER NOT NULL, gone INTEGER NOT NULL,"
    " local INTEGER NOT NULL UNIQUE, PRIMARY KEY (kind, key)) WITHOUT ROWID",
    *(statement for kind in FIRST for statement in triggers(kind)),
)
"""`local` counts the changes of this directory, those that came from the other coordinator included."""


class Journal:
    """On an open database; errors are sqlite3's."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @property
    def last(self) -> int:
        """The number of this directory's last change."""
        return int(self._db.execute("SELECT coalesce(max(local), 0) FROM journal").fetchone()[0])

    def since(self, local: int) -> tuple[tuple[StoreRow, ...], int]:
        """Rows that changed after `local`, oldest first, as many as fit one message; and the last change's number."""
        query = (
            "SELECT kind, key, term, number, gone, local FROM journal WHERE local > ? ORDER BY local"
            f" LIMIT {BATCH_ROWS}"
        )
        rows: list[StoreRow] = []
        nbytes = 0
        for kind, key, term, number, gone, at in self._db.execute(query, (local,)).fetchall():
            body = b"" if gone else self._body(kind, key)
            rows.append(StoreRow(kind=kind, key=key, term=term, number=number, gone=bool(gone), body=body))
            local, nbytes = at, nbytes + len(body)
            if nbytes > BATCH_BYTES:
                break
        return tuple(rows), local

    def newer(self, row: StoreRow) -> bool:
        """Whether the row would replace ours."""
        found = self._db.execute(
            "SELECT term, number FROM journal WHERE kind = ? AND key = ?", (row.kind, row.key)
        ).fetchone()
        return row.kind in TABLES and (found is None or (row.term, row.number) > tuple(found))

    def merge(self, rows: Iterable[StoreRow]) -> list[StoreRow]:
        """Take in those that are newer, and return them. The caller's transaction makes it all or nothing."""
        taken = [row for row in rows if self.newer(row)]
        for row in taken:
            table = TABLES[row.kind]
            if row.gone:
                self._db.execute(f"DELETE FROM {table.name} WHERE {_where(table)}", row.key.split(SEPARATOR))
            else:
                values = msgspec.msgpack.decode(row.body, type=list[Any])
                holes = ", ".join("?" for _ in values)
                self._db.execute(f"INSERT OR REPLACE INTO {table.name} VALUES ({holes})", values)
            self._db.execute(
                "INSERT OR REPLACE INTO journal VALUES (?, ?, ?, ?, ?, ?)",
                (row.kind, row.key, row.term, row.number, row.gone, self.last + 1),
            )
        return taken

    def _body(self, kind: str, key: str) -> bytes:
        table = TABLES[kind]
        query = f"SELECT * FROM {table.name} WHERE {_where(table)}"
        values: Sequence[object] = self._db.execute(query, key.split(SEPARATOR)).fetchone()
        return msgspec.msgpack.encode(values)


def _where(table: Table) -> str:
    return " AND ".join(f"{column} = ?" for column in table.keys)


def manifest_of(row: StoreRow) -> str:
    """The manifest that a row of kind "model" names."""
    _, manifest, _ = msgspec.msgpack.decode(row.body, type=tuple[str, str, int])
    return manifest
