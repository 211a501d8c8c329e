"""A small model to register with a coordinator, and what is to be seen of it."""

from __future__ import annotations

import json

from stageline.blobs import BlobStore
from stageline.blocks import BlockSpec, DimRange, TensorRef, ValueSpec
from stageline.manifest import ModelManifest, canonical_json
from stageline.plan import Plan

from .conftest import Peer, Process

Model = tuple[BlobStore, str]
"""A store and the address of a manifest in it, whose blobs it has too."""


def two_blocks(store: BlobStore, name: str = "net") -> Model:
    """A model of two blocks with 3 MB of weights each."""
    values = [ValueSpec(f"v{i}", "float32", ("batch", 10)) for i in range(3)]
    blocks = []
    for i in range(2):
        tensor, graph = bytes([i]) * 3_000_000, b"{}" + b" " * i
        refs = (TensorRef("w", store.put_bytes(tensor), "uint8", (2_999_000,), 2_999_000, 3_000_000),)
        blocks.append(
            BlockSpec(f"b{i}", store.put_bytes(graph), len(graph), refs, (values[i],), (values[i + 1],), 1, 1)
        )
    manifest = ModelManifest(name, (values[0],), (values[2],), tuple(blocks), {"batch": DimRange(1, 8, 1)})
    return store, store.put_bytes(canonical_json(manifest.to_json()))


def register(coordinator: Process, model: Model) -> None:
    """Upload it and have it served."""
    store, sha = model
    manifest = ModelManifest.from_json(json.loads(store.read(sha)))
    with coordinator.admin() as admin:
        assert admin.upload(store, [*manifest.blobs(), sha]) > 6_000_000
        admin.put_model(sha)
        assert manifest.name in [row.name for row in admin.models()]


def serving(peer: Peer, term: int) -> bool:
    """Whether the newest plan of that term serves its first model, as the peer heard."""
    plans = [plan for plan in peer.of(Plan) if plan.term == term]
    return bool(plans) and plans[-1].models != () and plans[-1].models[0].status == "serving"
