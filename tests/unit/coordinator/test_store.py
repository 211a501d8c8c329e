"""The store: what was written is there after a reopening, and nobody else gets at it meanwhile."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from fleet import FakeAgent, manifest

from stageline.blobs import BlobStore
from stageline.errors import BlobMissingError, ManifestError, ModelNotFoundError, StoreError, StoreVersionError
from stageline.manifest import ModelManifest, canonical_json
from stageline.plan import NodeView, Plan
from stageline.wishes import Wishes
from stageline_coordinator import registry
from stageline_coordinator.database import _SCHEMA_1, DATABASE
from stageline_coordinator.figures import Figure, FigureKey
from stageline_coordinator.network import BROKEN, Link
from stageline_coordinator.store import Store

LINK = Link(2e6, 0.001, 0.05, 0.1)
WISHES = Wishes(rate_per_s=3.0, max_replicas=2, source="n", forbidden=("x", "y"), required=("z",))


def upload(blobs: BlobStore, model: ModelManifest) -> str:
    """The manifest with a graph and a tensor that exist; returns its address."""
    document = model.to_json()
    for i, block in enumerate(document["blocks"]):
        graph, tensor = f"{{}}{' ' * i}".encode(), bytes(i + 1) * 200
        block.update(graph=blobs.put_bytes(graph), graph_bytes=len(graph))
        block["tensors"][0].update(sha256=blobs.put_bytes(tensor), blob_bytes=len(tensor), shape=[1], nbytes=4)
    return blobs.put_bytes(canonical_json(document))


def test_everything_survives_a_reopening(tmp_path: Path) -> None:
    hello, plan = FakeAgent("n0").hello(), Plan(term=3, version=7, nodes=(NodeView("n0", "i", "alive", ("x",)),))
    with Store(tmp_path) as store:
        cluster = store.cluster
        store.save_ports({"control": 7700})
        store.put_model("b", "1" * 64)
        store.put_model("a", "2" * 64)
        store.put_model("b", "3" * 64)
        store.put_profile(FigureKey("g", "f", 1), Figure(0.7, 10, 0.5))
        store.put_profile(FigureKey("g", "f", 1), Figure(0.5, 10, 0.1))
        store.put_profile(FigureKey("g", "f", 8), Figure(2.5, 80))
        store.put_links({("agent:n0", "agent:n1"): Link(1e6, 0.1)})
        store.put_links({("agent:n0", "gateway:g"): LINK, ("gateway:g", "agent:n0"): BROKEN})
        store.put_plan(Plan(term=1, version=1))
        store.put_plan(plan)
        store.put_node(hello)
        store.put_node(FakeAgent("n1").hello())
        store.forget_node("n1")
        assert (store.objective(), store.wishes()) == ("throughput", {})
        store.put_objective("latency")
        store.put_wishes("a", WISHES)
        store.put_wishes("b", Wishes(priority=2.0))
    with Store(tmp_path) as store:
        assert store.cluster == cluster
        assert store.ports() == {"control": 7700}
        assert list(store.models().items()) == [("b", "3" * 64), ("a", "2" * 64)]
        assert store.profiles() == {("g", "f", 1): Figure(0.5, 10, 0.1), ("g", "f", 8): Figure(2.5, 80)}
        assert store.links() == {("agent:n0", "gateway:g"): LINK, ("gateway:g", "agent:n0"): BROKEN}
        assert store.plan() == plan
        assert store.nodes() == (hello,)
        assert (store.objective(), store.wishes()) == ("latency", {"a": WISHES, "b": Wishes(priority=2.0)})
        store.remove_model("b")
        assert store.wishes() == {"a": WISHES}
        assert store.models() == {"a": "2" * 64}


def test_the_term_grows_at_every_start(tmp_path: Path) -> None:
    terms = []
    for _ in range(3):
        with Store(tmp_path) as store:
            terms.append(store.begin_term())
    assert terms == [1, 2, 3]


def test_it_writes_through_to_the_disk(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        (mode,) = store._db.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = store._db.execute("PRAGMA synchronous").fetchone()
        assert (mode, synchronous) == ("wal", 2)
        store.put_model("a", "1" * 64)
        other = sqlite3.connect(tmp_path / DATABASE)
        assert other.execute("SELECT name FROM models").fetchall() == [("a",)]
        other.close()


def test_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as db:
        for statement in _SCHEMA_1:
            db.execute(statement)
        db.execute("INSERT INTO profiles VALUES ('g', 'f', 1, 0.5, 10)")
        db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        with Store(tmp_path) as store:
            assert store.profiles() == {("g", "f", 1): Figure(0.5, 10)}
            store.put_links({("a", "b"): LINK})
            store.put_wishes("a", WISHES)
            assert store.wishes() == {"a": WISHES}


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreVersionError, match="newer Stageline"):
        Store(tmp_path)
    with pytest.raises(StoreVersionError):  # the lock was given back
        Store(tmp_path)


def test_two_at_once_are_refused_with_the_holders_pid(tmp_path: Path) -> None:
    with Store(tmp_path):
        with pytest.raises(StoreError, match=rf"already uses .*pid {os.getpid()}\)"):
            Store(tmp_path)
        for offline in (registry.list_models, lambda d: registry.read_manifest(d, "a")):
            with pytest.raises(StoreError, match="already uses"):
                offline(tmp_path)
    Store(tmp_path).close()


def test_a_damaged_database_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreError, match="database failed"):
        Store(tmp_path)


def test_models_can_be_registered_while_no_coordinator_runs(tmp_path: Path) -> None:
    sha = upload(BlobStore(registry.blobs_dir(tmp_path)), manifest("net", blocks=2))
    assert registry.register_model(tmp_path, sha).name == "net"
    assert registry.list_models(tmp_path) == {"net": sha}
    assert len(registry.read_manifest(tmp_path, "net").blocks) == 2
    registry.remove_model(tmp_path, "net")
    assert registry.list_models(tmp_path) == {}
    for missing in (registry.remove_model, registry.read_manifest):
        with pytest.raises(ModelNotFoundError):
            missing(tmp_path, "net")


def test_a_model_with_missing_or_odd_blobs_is_not_registered(tmp_path: Path) -> None:
    blobs = BlobStore(registry.blobs_dir(tmp_path))
    with pytest.raises(BlobMissingError):
        registry.register_model(tmp_path, "0" * 64)
    incomplete = blobs.put_bytes(canonical_json(manifest("net").to_json()))
    with pytest.raises(BlobMissingError, match=manifest("net").blocks[0].graph):
        registry.register_model(tmp_path, incomplete)
    for odd in (b"{}", b"not json", b"[" * 100_000):
        with pytest.raises(ManifestError):
            registry.register_model(tmp_path, blobs.put_bytes(odd))
    assert registry.list_models(tmp_path) == {}
