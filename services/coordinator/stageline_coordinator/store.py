"""What the coordinator must not forget, in SQLite (WAL, synchronous=FULL), and the blobs beside it.

Every method that changes something returns only once that is on disk. One process at a time: `Store` holds a lock
on the data directory, so two coordinators, or one and an offline command, never share it.
"""

from __future__ import annotations

import os
import secrets
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from stageline.blobs import BlobStore
from stageline.coordinators import ID_BITS, next_term
from stageline.messages import Hello, StoreRow
from stageline.nodewishes import OPEN, NodeWishes
from stageline.plan import Plan
from stageline.wire import encode
from stageline.wishes import OBJECTIVES, Wishes

from .database import DATABASE, disk_errors, open_database, take_lock
from .figures import Figure, FigureKey
from .journal import Journal
from .leadership import Remembered
from .network import Link
from .tokens import Key, OldKey, Token

BLOBS_DIR = "blobs"
T = TypeVar("T")
OBJECTIVE, MODEL_WISHES, NODE_WISHES = "objective", "model:", "node:"
"""Subjects of what is wanted: of the cluster, and of a model or a worker, before its name."""


class Store:
    """Raises `StoreError` when the directory is in use or unusable, `StoreVersionError` when a newer one wrote it.

    A new directory founds a cluster, unless `founding` is False: then `cluster` is empty until `join`.
    """

    def __init__(self, data_dir: Path, *, founding: bool = True) -> None:
        self._lock = take_lock(data_dir)
        try:
            self.blobs = BlobStore(data_dir / BLOBS_DIR)
            with disk_errors():
                self._db = open_database(data_dir / DATABASE)
            self.journal = Journal(self._db)
            self.cluster = self._meta("cluster")
            if founding and not self.cluster:
                self.cluster = self._set_meta("cluster", uuid.uuid4().hex[:12])
            if not self._meta("coordinator"):
                self._set_meta("coordinator", str(1 + secrets.randbelow((1 << ID_BITS) - 1)))
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

    # --- terms ------------------------------------------------------------------------------------------

    def remembered(self) -> Remembered:
        """How this coordinator left off."""
        joined = bool(self._meta("joined"))
        return Remembered(
            coordinator=int(self._meta("coordinator")),
            founder=bool(self.cluster) and not joined,
            able=bool(self.cluster) and (not joined or bool(self._meta("complete"))),
            taken=int(self._meta("term") or 0),
            promised=max(int(self._meta("promised") or 0), int(self._meta("term") or 0)),
        )

    def begin_term(self) -> int:
        """Take a term larger than any that this coordinator took or promised."""
        here = self.remembered()
        return self.take_term(next_term(here.promised, here.coordinator, founder=here.founder))

    def take_term(self, term: int) -> int:
        """From now on changes are made under this term."""
        self._set_meta("term", str(term))
        return term

    def claim_term(self) -> None:
        """Have changes count as later than those of another coordinator that led since this one did."""
        here = self.remembered()
        if here.promised > here.taken:
            self.begin_term()

    def promise(self, term: int) -> None:
        """Follow nobody below this term."""
        self._set_meta("promised", str(term))

    # --- the other coordinator ------------------------------------------------------------------------------

    def join(self, cluster: str) -> None:
        """Belong to a cluster that another coordinator founded."""
        with self._transaction():
            self._set_meta("joined", "1")
            self.cluster = self._set_meta("cluster", cluster)

    def change_id(self) -> int:
        """Take another id; only before anything was said under this one."""
        taken = 1 + secrets.randbelow((1 << ID_BITS) - 1)
        self._set_meta("coordinator", str(taken))
        return taken

    def revive(self) -> None:
        """Go on from a backup: as a coordinator of its own and under a term of its own, since what this directory would
        say next was perhaps said before, by itself. Join tokens serve no more: they may have been used since.
        """
        here = self.change_id()
        self.take_term(next_term(self.remembered().promised, here, founder=False))
        self._write("DELETE FROM tokens", ())

    def completed(self) -> None:
        """Everything that the partner had is here."""
        self._set_meta("complete", "1")

    def partner(self) -> str:
        """The other coordinator's address, empty if there never was one."""
        return self._meta("partner")

    def save_partner(self, address: str) -> None:
        self._set_meta("partner", address)

    def applied(self, coordinator: int) -> int:
        """Which of that coordinator's changes are all here."""
        return int(self._meta(f"applied:{coordinator}") or 0)

    def merge(self, rows: Iterable[StoreRow], coordinator: int, applied: int) -> list[StoreRow]:
        """Take in those that are newer than ours, and return them; all up to change `applied` are here then."""
        with self._transaction():
            taken = self.journal.merge(rows)
            if applied != self.applied(coordinator):
                self._set_meta(f"applied:{coordinator}", str(applied))
            return taken

    # --- our own key ----------------------------------------------------------------------------------------

    def key_due(self) -> float:
        """When this coordinator takes its next key (Unix seconds); 0: there is none."""
        return float(self._meta("key_due") or 0)

    def save_key_due(self, at: float) -> None:
        self._set_meta("key_due", repr(at))

    # --- ports ----------------------------------------------------------------------------------------------

    def ports(self) -> dict[str, int]:
        """The ports of the last run, by channel."""
        found: dict[str, int] = msgspec.json.decode(self._meta("ports") or "{}", type=dict[str, int])
        return found

    def save_ports(self, ports: Mapping[str, int]) -> None:
        self._set_meta("ports", msgspec.json.encode(ports).decode())

    # --- models ---------------------------------------------------------------------------------------------

    def models(self) -> dict[str, str]:
        """SHA-256 of each model's manifest by name, in the order in which they were added."""
        with disk_errors():
            return dict(self._db.execute("SELECT name, manifest FROM models ORDER BY added, name"))

    def put_model(self, name: str, manifest: str) -> None:
        """Add, or replace in place."""
        self._write(
            "INSERT INTO models VALUES (?, ?, (SELECT coalesce(max(added), 0) + 1 FROM models))"
            " ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest",
            (name, manifest),
        )

    def remove_model(self, name: str) -> None:
        """Forget it, and what was wanted of it."""
        with self._transaction():
            self._write("DELETE FROM wishes WHERE subject = ?", (MODEL_WISHES + name,))
            self._write("DELETE FROM models WHERE name = ?", (name,))

    def wishes(self) -> dict[str, Wishes]:
        """What is wanted of each model's plan, by name, where something was said."""
        return self._wishes(MODEL_WISHES, Wishes)

    def put_wishes(self, model: str, wishes: Wishes) -> None:
        self._write("INSERT OR REPLACE INTO wishes VALUES (?, ?)", (MODEL_WISHES + model, _json(wishes)))

    def node_wishes(self) -> dict[str, NodeWishes]:
        """What is wanted of each worker, by name, where something was said."""
        return self._wishes(NODE_WISHES, NodeWishes)

    def put_node_wishes(self, name: str, wishes: NodeWishes) -> None:
        """Keep it; that nothing is wanted is not kept."""
        if wishes == OPEN:
            self._write("DELETE FROM wishes WHERE subject = ?", (NODE_WISHES + name,))
        else:
            self._write("INSERT OR REPLACE INTO wishes VALUES (?, ?)", (NODE_WISHES + name, _json(wishes)))

    def _wishes(self, prefix: str, kind: type[T]) -> dict[str, T]:
        query = "SELECT subject, body FROM wishes WHERE substr(subject, 1, ?) = ? ORDER BY subject"
        with disk_errors():
            rows = self._db.execute(query, (len(prefix), prefix)).fetchall()
            return {subject[len(prefix) :]: msgspec.json.decode(body, type=kind) for subject, body in rows}

    def objective(self) -> str:
        """What plans are to be best in."""
        with disk_errors():
            row = self._db.execute("SELECT body FROM wishes WHERE subject = ?", (OBJECTIVE,)).fetchone()
            return msgspec.json.decode(row[0], type=str) if row else OBJECTIVES[0]

    def put_objective(self, objective: str) -> None:
        self._write("INSERT OR REPLACE INTO wishes VALUES (?, ?)", (OBJECTIVE, _json(objective)))

    # --- profiles, plan, nodes ------------------------------------------------------------------------------

    def profiles(self) -> dict[FigureKey, Figure]:
        """What blocks cost."""
        query = "SELECT graph, fingerprint, batch, seconds, workspace_bytes, error FROM profiles"
        with disk_errors():
            return {FigureKey(*row[:3]): Figure(*row[3:]) for row in self._db.execute(query)}

    def put_profile(self, key: FigureKey, figure: Figure) -> None:
        self._write(
            "INSERT OR REPLACE INTO profiles VALUES (?, ?, ?, ?, ?, ?)",
            (*key, figure.seconds, figure.workspace_bytes, figure.error),
        )

    def links(self) -> dict[tuple[str, str], Link]:
        """Links by the identities of their ends, (from, to)."""
        query = "SELECT source, target, bytes_per_s, latency_s, error, latency_error FROM links"
        with disk_errors():
            return {(row[0], row[1]): Link(*row[2:]) for row in self._db.execute(query)}

    def put_links(self, links: Mapping[tuple[str, str], Link]) -> None:
        """All of them at once, or none."""
        rows = [(*ends, *astuple(link)) for ends, link in links.items()]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?, ?, ?)", rows)

    def plan(self) -> Plan | None:
        """The plan committed last."""
        with disk_errors():
            row = self._db.execute("SELECT body FROM plan").fetchone()
            return msgspec.msgpack.decode(row[0], type=Plan) if row else None

    def put_plan(self, plan: Plan) -> None:
        self._write("INSERT OR REPLACE INTO plan VALUES (0, ?)", (encode(plan),))

    def nodes(self) -> tuple[Hello, ...]:
        """Every worker that ever joined and was not forgotten."""
        with disk_errors():
            rows = self._db.execute("SELECT hello FROM nodes ORDER BY name")
            return tuple(msgspec.msgpack.decode(row[0], type=Hello) for row in rows)

    def put_node(self, hello: Hello) -> None:
        self._write("INSERT OR REPLACE INTO nodes VALUES (?, ?)", (hello.name, encode(hello)))

    def forget_node(self, name: str) -> None:
        identity = f"agent:{name}"
        with self._transaction():
            self._write("DELETE FROM links WHERE source = ? OR target = ?", (identity, identity))
            self._write("DELETE FROM nodes WHERE name = ?", (name,))

    # --- who is let in ----------------------------------------------------------------------------------------

    def keys(self) -> tuple[Key, ...]:
        """Of workers and gateways that joined with a token, or were revoked."""
        with disk_errors():
            rows = self._db.execute("SELECT name, public, revoked FROM keys ORDER BY name")
            return tuple(Key(name, public, bool(revoked)) for name, public, revoked in rows)

    def put_key(self, key: Key, used: Token | None = None) -> None:
        """Keep whose key it is, and the token that was used for it, as it is afterwards.

        Whose key is revoked, or joins anew, is let in under none of before.
        """
        with self._transaction():
            self._write("UPDATE old_keys SET until = 0, filed = 0 WHERE name = ?", (key.name,))
            self._write("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", (key.name, key.public, int(key.revoked)))
            if used is not None:
                self._write("UPDATE tokens SET uses = ? WHERE id = ?", (used.uses, used.id))

    def old_keys(self) -> tuple[OldKey, ...]:
        """Those that others took the place of."""
        with disk_errors():
            rows = self._db.execute("SELECT public, name, until, filed FROM old_keys ORDER BY public")
            return tuple(OldKey(public, name, until, bool(filed)) for public, name, until, filed in rows)

    def rotate_key(self, key: Key, old: OldKey) -> None:
        """Both at once, or neither."""
        with self._transaction():
            self._write("INSERT OR REPLACE INTO old_keys VALUES (?, ?, ?, ?)", astuple(old))
            self._write("INSERT OR REPLACE INTO keys VALUES (?, ?, 0)", (key.name, key.public))

    def token(self, identity: str) -> Token | None:
        """What is kept of a join token."""
        with disk_errors():
            row = self._db.execute("SELECT id, hash, uses, expires FROM tokens WHERE id = ?", (identity,)).fetchone()
            return Token(*row) if row else None

    def put_token(self, token: Token) -> None:
        """Keep it, and forget those that expired a day before it was made."""
        with self._transaction():
            self._write("DELETE FROM tokens WHERE expires < ?", (time.time() - 86400.0,))
            self._write(
                "INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?)",
                (token.id, token.hash, token.uses, token.expires),
            )

    # --- helpers --------------------------------------------------------------------------------------------

    def _meta(self, key: str) -> str:
        with disk_errors():
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else ""

    def _set_meta(self, key: str, value: str) -> str:
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        return value

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing, on disk at the end."""
        with disk_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with disk_errors():
            self._db.execute(statement, values)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
