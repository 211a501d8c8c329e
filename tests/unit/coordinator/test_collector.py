"""Blobs that no model names go, and nothing that a model, a plan or an upload needs."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet import manifest

from stageline.blobs import BlobStore
from stageline.errors import BlobCorruptError, BlobMissingError, StoreError
from stageline.manifest import ModelManifest, canonical_json
from stageline.messages import BlobPut, BlobQuery
from stageline.plan import ModelPlan, Plan, Signature
from stageline.wire import encode
from stageline_coordinator import registry
from stageline_coordinator.blob_server import BlobService
from stageline_coordinator.collector import EVERY_S, Collector, needed
from stageline_coordinator.registry import check_model
from stageline_coordinator.store import Store

KEEP_S = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as opened:
        yield opened


def add(blobs: BlobStore, name: str) -> ModelManifest:
    """A model's blobs, all of them last used long ago; the manifest is its `digest`'s blob."""
    document = manifest(name, blocks=2).to_json()
    for i, block in enumerate(document["blocks"]):
        graph, tensor = f"{{}}{name}{i}".encode(), f"{name}{i}".encode() * 50
        block.update(graph=blobs.put_bytes(graph), graph_bytes=len(graph))
        block["tensors"][0].update(sha256=blobs.put_bytes(tensor), blob_bytes=len(tensor), shape=[1], nbytes=4)
    made = ModelManifest.from_json(document)
    age(blobs, [*made.blobs(), blobs.put_bytes(canonical_json(document))])
    return made


def address(model: ModelManifest, blobs: BlobStore) -> str:
    return blobs.put_bytes(canonical_json(model.to_json()))


def age(blobs: BlobStore, shas: list[str]) -> None:
    for sha in shas:
        os.utime(blobs.path(sha), (1000.0, 1000.0))


def whole(blobs: BlobStore, model: ModelManifest) -> bool:
    return all(map(blobs.has, model.blobs()))


def collect(store: Store, *, after_s: float = KEEP_S, uploading_s: float = 0.0, copying: tuple[str, ...] = ()) -> None:
    """One look, `after_s` after the start and the last sign of an upload so long after it."""
    collector = Collector(store, KEEP_S, now=0.0)
    collector.tick(after_s, uploading_s, copying)
    collector.close()


def test_models_plans_and_copies_keep_their_blobs(store: Store) -> None:
    names = ("registered", "placed", "copied", "removed")
    models = {name: add(store.blobs, name) for name in names}
    at = {name: address(model, store.blobs) for name, model in models.items()}
    age(store.blobs, list(at.values()))
    store.put_model("registered", at["registered"])
    store.put_plan(Plan(term=1, version=1, models=(ModelPlan("placed", at["placed"], Signature((), ()), "serving"),)))
    collect(store, copying=(at["copied"], "f" * 64))
    assert {name: whole(store.blobs, model) for name, model in models.items()} == dict.fromkeys(names, True) | {
        "removed": False
    }
    assert not store.blobs.has(at["removed"])


def test_a_shared_tensor_stays_with_the_model_that_is_left(store: Store) -> None:
    kept = add(store.blobs, "net")
    other = ModelManifest.from_json(kept.to_json() | {"name": "other"})
    for model in (kept, other):
        store.put_model(model.name, address(model, store.blobs))
    age(store.blobs, [*store.models().values()])
    gone = store.models()["other"]
    store.remove_model("other")
    collect(store)
    assert whole(store.blobs, kept) and not store.blobs.has(gone)


@pytest.mark.parametrize(
    ("after_s", "uploading_s", "goes"),
    [(KEEP_S, 0.0, True), (KEEP_S - 1, -KEEP_S, True), (EVERY_S - 1, -KEEP_S, False), (KEEP_S, 1.0, False)],
)
def test_an_upload_is_left_alone(store: Store, after_s: float, uploading_s: float, goes: bool) -> None:
    loose = add(store.blobs, "half-uploaded")
    collect(store, after_s=after_s, uploading_s=uploading_s)
    assert whole(store.blobs, loose) is not goes


def test_asking_and_storing_are_signs_of_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, clock = BlobService(BlobStore(tmp_path)), [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def at(moment: float, frames: list[bytes], may_upload: bool = True) -> float:
        clock[0] = moment
        service.answer(frames, may_upload)
        return service.uploading_at

    query = [encode(BlobQuery(id=1, sha256=("a" * 64,)))]
    put = [encode(BlobPut(id=2, sha256="a" * 64, offset=0, total=9)), b"abc"]
    assert at(20.0, query) == 20.0
    assert at(30.0, put) == 30.0
    assert at(40.0, query, may_upload=False) == 30.0


def test_what_is_registered_while_blobs_are_removed_stays_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at which blobs are needed and the removal the model is registered."""
    model = add(store.blobs, "late")
    sha = address(model, store.blobs)
    removing: Callable[..., tuple[int, int]] = store.blobs.collect

    def late(*arguments: object) -> tuple[int, int]:
        check_model(store.blobs, sha)
        return removing(*arguments)

    monkeypatch.setattr(store.blobs, "collect", late)
    collect(store)
    assert registry.check_model(store.blobs, sha).name == "late"


def test_nothing_is_removed_while_a_manifest_cannot_be_read(store: Store) -> None:
    model, loose = add(store.blobs, "net"), add(store.blobs, "loose")
    sha = address(model, store.blobs)
    store.put_model("net", sha)
    (store.blobs.path(sha)).write_bytes(b"{}")
    collect(store)
    assert whole(store.blobs, model) and whole(store.blobs, loose)


def test_what_is_needed_names_a_lack_unless_it_is_passing(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    with pytest.raises(BlobMissingError):
        needed(blobs, ["a" * 64])
    assert needed(blobs, [], ["a" * 64]) == {"a" * 64}
    sha = blobs.put_bytes(b"manifest")
    blobs.path(sha).write_bytes(b"damaged!")
    with pytest.raises(BlobCorruptError):
        needed(blobs, [sha])


def test_an_upload_that_filled_the_disk_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, service = store.blobs, BlobService(store.blobs)
    kept = add(blobs, "kept")
    store.put_model("kept", address(kept, blobs))
    sent = blobs.put_bytes(b"the first of an upload")
    begun = BlobPut(id=1, sha256="e" * 64, offset=0, total=1 << 20)
    service.answer([encode(begun), b"a chunk"])

    def full(*_: object, **__: object) -> int:
        error = StoreError("the disk is full")
        error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
        raise error

    collector = Collector(store, KEEP_S, now=time.monotonic())
    collector.tick(time.monotonic(), service.uploading_at, (), service.filled_at)
    collector.close()
    assert blobs.has(sent), "nothing has filled the disk yet"
    monkeypatch.setattr(blobs, "append", full)
    service.answer([encode(begun), b"a chunk"])
    collector.tick(time.monotonic(), service.uploading_at, (), service.filled_at)
    collector.close()
    assert not blobs.has(sent) and not blobs.partial_size("e" * 64) and whole(blobs, kept)
    monkeypatch.undo()
    after = blobs.put_bytes(b"the first of the next one")
    collector.tick(time.monotonic(), service.uploading_at, (), service.filled_at)
    collector.close()
    assert blobs.has(after), "once for each time"
