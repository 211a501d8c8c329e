"""A cluster's data directory in one file and back: whole or not at all, and never over another."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import stat
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fleet import FakeAgent, manifest

from stageline.blobs import BlobStore
from stageline.cli import run
from stageline.coordinators import number_of
from stageline.errors import BlobCorruptError, BlobMissingError, StagelineError, StoreError, StoreVersionError
from stageline.keyfiles import add_node, init_keys, read_keyring
from stageline.manifest import canonical_json
from stageline.plan import Plan
from stageline_coordinator.backup import back_up, restore
from stageline_coordinator.database import DATABASE, SCHEMA_VERSION
from stageline_coordinator.registry import check_model
from stageline_coordinator.store import Store
from stageline_coordinator.tokens import Key, Token


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


def put_model(store: Store, name: str) -> str:
    """A model with a tensor of its own."""
    document = manifest(name, blocks=1).to_json()
    (block,) = document["blocks"]
    block.update(graph=store.blobs.put_bytes(b"{}"), graph_bytes=2)
    tensor = name.encode() * 1000
    block["tensors"][0].update(sha256=store.blobs.put_bytes(tensor), blob_bytes=len(tensor), shape=[1], nbytes=4)
    sha = store.blobs.put_bytes(canonical_json(document))
    store.put_model(name, sha)
    return sha


@pytest.fixture
def store(home: Path) -> Store:
    """A cluster with two models, one removed again, under term 2, that runs."""
    store = Store(home)
    store.begin_term()
    put_model(store, "gone")
    put_model(store, "net")
    store.remove_model("gone")
    store.put_plan(Plan(term=store.begin_term(), version=7))
    store.put_node(FakeAgent("n0").hello())
    store.put_key(Key("n0", "a" * 64, revoked=True))
    store.put_token(Token("t", "hash", 1, time.time() + 1000))
    return store


def archived(data_dir: Path, keys: Path | None = None) -> bytes:
    into = io.BytesIO()
    back_up(data_dir, into, keys)
    return into.getvalue()


def test_a_cluster_comes_back_as_it_was_under_a_term_of_its_own(store: Store, home: Path, there: Path) -> None:
    with closing(store):
        contents = back_up(home, made := io.BytesIO())  # while it runs
        store.put_model("later", store.models()["net"])
        made.seek(0)
        assert restore(there, made) == contents
        before = store.remembered()
    assert (contents.models, contents.cluster, len(contents.blobs)) == (("net",), store.cluster, 3)
    with Store(there) as back:
        assert (back.cluster, list(back.models())) == (store.cluster, ["net"])
        assert check_model(back.blobs, back.models()["net"]).name == "net"
        assert back.plan() == Plan(term=before.taken, version=7)
        assert [hello.name for hello in back.nodes()] == ["n0"]
        assert back.keys() == (Key("n0", "a" * 64, revoked=True),)
        assert back.token("t") is None
        after = back.remembered()
        assert after.coordinator != before.coordinator and after.able
        assert number_of(after.taken) == number_of(before.promised) + 1 and after.taken == after.promised
        assert back.begin_term() > after.taken
    assert {path.name for path in there.iterdir()} == {DATABASE, "blobs", "coordinator.lock"}


def test_a_standby_takes_over_what_a_revived_coordinator_says(
    home: Path, there: Path, tmp_path: Path, store: Store
) -> None:
    """The numbers of its changes begin again below those that the standby has of it: it must not count as the same."""
    with closing(store), Store(tmp_path / "standby") as standby:
        copy = archived(home)
        for objective in ("latency", "weighted", "latency"):
            store.put_objective(objective)
        rows, last = store.journal.since(0)
        standby.merge(rows, store.remembered().coordinator, last)
    restore(there, io.BytesIO(copy))
    with Store(there) as back, Store(tmp_path / "standby") as standby:
        back.put_objective("throughput")
        known = standby.applied(back.remembered().coordinator)
        assert known == 0
        rows, last = back.journal.since(known)
        standby.merge(rows, back.remembered().coordinator, last)
        assert standby.objective() == "throughput"


def test_a_running_coordinator_and_a_cluster_are_not_overwritten(store: Store, home: Path, there: Path) -> None:
    with closing(store):
        made = archived(home)
        with pytest.raises(StoreError, match=r"a coordinator already uses .*home \(pid"):
            restore(home, io.BytesIO(made))
    models = (home / DATABASE).read_bytes()
    with pytest.raises(StoreError, match="home holds a cluster already: restore into an empty directory"):
        restore(home, io.BytesIO(made))
    assert (home / DATABASE).read_bytes() == models
    with pytest.raises(StoreError, match="there holds no cluster: name the coordinator's data directory"):
        back_up(there, io.BytesIO())
    assert not there.exists()


def test_an_older_schema_is_brought_up_and_a_newer_one_refused(tmp_path: Path, there: Path, home: Path) -> None:
    with Store(home) as store:
        put_model(store, "net")
    newer = tmp_path / "newer"
    with Store(newer):
        pass
    with closing(sqlite3.connect(newer / DATABASE)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreVersionError, match="newer was written by a newer Stageline"):
        back_up(newer, io.BytesIO())
    made = archived(home)
    for found, as_if in (("schema", SCHEMA_VERSION + 1), ("format", 2)):
        changed = rewritten(made, "backup.json", lambda data, f=found, v=as_if: said(data, f, v))
        with pytest.raises(StoreVersionError, match="the backup was made by a newer Stageline"):
            restore(there, io.BytesIO(changed))
    assert not (there / DATABASE).exists()


def said(index: bytes, name: str, value: int) -> bytes:
    return json.dumps(json.loads(index) | {name: value}).encode()


def rewritten(made: bytes, name: str, change: Callable[[bytes], bytes | None]) -> bytes:
    """The archive with the members whose names begin so changed, or left out."""
    into = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(made)) as old, tarfile.open(fileobj=into, mode="w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            data: bytes | None = file.read()
            if member.name.startswith(name):
                data = change(data or b"")
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    return into.getvalue()


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1, *data[1:]]) if data else data


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda made: rewritten(made, DATABASE, flipped), f"{DATABASE} does not match its SHA-256"),
        (lambda made: rewritten(made, "blobs/", flipped), "came damaged and was discarded"),
        (lambda made: rewritten(made, "blobs/", lambda _: None), "cut short: it lacks blobs/"),
        (lambda made: rewritten(made, "backup.json", lambda _: b"{}"), "index cannot be read"),
        (lambda made: rewritten(made, "backup.json", lambda _: None), "it does not begin with backup.json"),
        (lambda made: made[: len(made) * 2 // 3], "cut short"),
        (lambda _: b"nothing of the kind" * 100, "this is no backup"),
        (lambda _: b"", "this is no backup"),
    ],
    ids=["database", "blob", "without blobs", "index", "without index", "cut", "no archive", "empty"],
)  # fmt: skip
def test_what_is_damaged_is_refused_and_run_again_it_succeeds(
    home: Path, there: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    with Store(home) as store:
        put_model(store, "net")
    made = archived(home)
    with pytest.raises(StagelineError, match=says):
        restore(there, io.BytesIO(damage(made)))
    assert not (there / DATABASE).exists() and not (there / "restoring").exists()
    restore(there, io.BytesIO(made))
    with Store(there) as back:
        assert check_model(back.blobs, back.models()["net"]).name == "net"


def test_a_model_that_is_not_whole_is_named(home: Path) -> None:
    with Store(home) as store:
        sha = put_model(store, "net")
        tensor = next(iter(check_model(store.blobs, sha).blocks[0].tensors)).sha256
        store.blobs.path(tensor).write_bytes(b"damaged" * 1000)
    with pytest.raises(BlobCorruptError, match="did not match its SHA-256"):
        archived(home)
    with pytest.raises(BlobMissingError, match="of a model is not in the store: import the model again"):
        archived(home)


def test_keys_come_only_where_asked_and_are_their_owners_alone(home: Path, there: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    init_keys(keys)
    add_node(keys, "box")
    with Store(home):
        pass
    assert b"secret" not in archived(home)
    made, back = archived(home, keys), tmp_path / "back"
    restore(there, io.BytesIO(made), back)
    files = {str(path.relative_to(keys)): path.read_bytes() for path in keys.rglob("*.*") if path.is_file()}
    assert {str(p.relative_to(back)): p.read_bytes() for p in back.rglob("*.*") if p.is_file()} == files
    assert {stat.S_IMODE(path.stat().st_mode) for path in back.rglob("*") if path.is_file()} == {0o600}
    found = read_keyring(back / "coordinator")
    assert found is not None and len(found.principals) == 3
    (there / DATABASE).unlink()
    (back / "admin/admin.key").write_bytes(b"another")
    with pytest.raises(StoreError, match=r"admin.key is another key"):
        restore(there, io.BytesIO(made), back)
    assert not (there / DATABASE).exists()


def test_names_of_keys_stay_within_their_directory(home: Path, there: Path, tmp_path: Path) -> None:
    with Store(home):
        pass
    keys = tmp_path / "keys"
    init_keys(keys)
    for odd in (b"../../../admin.key", b"/tmp/admin.key"):
        made = rewritten(
            archived(home, keys), "backup.json", lambda data, odd=odd: data.replace(b"admin/admin.key", odd)
        )
        with pytest.raises(StoreError, match=r"admin.key' is no name of a key"):
            restore(there, io.BytesIO(made), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_from_the_shell(home: Path, there: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "monday.tar"
    with Store(home) as store:
        put_model(store, "net")
        assert run(["cluster", "backup", str(file), "--data-dir", str(home)]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "1 models, 3 blobs" in capfd.readouterr().err
    assert run(["cluster", "backup", str(file), "--data-dir", str(home)]) == 1
    assert "monday.tar exists: name another file" in capfd.readouterr().err
    assert run(["cluster", "restore", str(file), "--data-dir", str(there), "--json"]) == 0
    assert '"models": [\n    "net"\n  ]' in capfd.readouterr().out
    assert run(["cluster", "backup", str(tmp_path / "x.tar"), "--data-dir", str(tmp_path / "none")]) == 1
    assert sorted(os.listdir(tmp_path)) == ["home", "monday.tar", "there"]  # noqa: PTH208
    assert BlobStore(there / "blobs").total_bytes == BlobStore(home / "blobs").total_bytes
