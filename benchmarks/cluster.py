"""An embedded Stageline cluster for benchmarks, with a model on it."""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stageline.admin import AdminClient
from stageline.blobs import BlobStore
from stageline.blocks import BlockSpec, DimRange, TensorRef, ValueSpec
from stageline.data import Hop
from stageline.embedded.launch import Cluster, ClusterSpec, start
from stageline.manifest import ModelManifest, canonical_json
from stageline.plan import ModelPlan

SERVING_S = 120.0
ONE_BY_ONE: Mapping[str, Any] = {"max_batch": 1, "batch_delay_ms": 0}
"""Gateway settings without batching."""


class BenchCluster:
    """Coordinator, gateway and `nodes` workers with one torch thread each, in a temporary directory.

    `memory_bytes`: what each worker offers for weights and activations (0: what the machine has).
    """

    def __init__(self, nodes: int, gateway: Mapping[str, Any] | None = None, memory_bytes: int = 0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="stageline-bench-")
        settings = {"gateway": {**ONE_BY_ONE, **(gateway or {})}, "stage": {"memory_bytes": memory_bytes}}
        begun = time.monotonic()
        self.cluster: Cluster = start(ClusterSpec(Path(self._folder.name), nodes=nodes, settings=settings))
        self.start_s = time.monotonic() - begun
        self.store = BlobStore(Path(self._folder.name) / "bench-store")
        self.admin = AdminClient(self.cluster.state.coordinator)

    @property
    def gateway(self) -> str:
        """The address for clients."""
        return self.cluster.state.gateway

    def serve(self, manifest: ModelManifest, stages: int) -> ModelPlan:
        """Register the model, whose blobs are in `store`, and wait until it is served on so many stages."""
        sha = self.store.put_bytes(canonical_json(manifest.to_json()))
        self.admin.upload(self.store, [*manifest.blobs(), sha])
        self.admin.put_model(sha)
        deadline = time.monotonic() + SERVING_S
        while (plan := self.admin.plan().model(manifest.name)) is None or plan.status != "serving":
            if time.monotonic() > deadline:
                raise RuntimeError(f"{manifest.name} is not served: {plan.reason if plan else 'not planned'}")
            time.sleep(0.02)
        if len(plan.stages) != stages:
            raise RuntimeError(f"{manifest.name} was placed on {len(plan.stages)} stages, {stages} are wanted")
        return plan

    def close(self) -> None:
        """Stop all of it."""
        self.admin.close()
        self.cluster.stop()
        self._folder.cleanup()


def route(plan: ModelPlan, transport: str) -> tuple[Hop, ...]:
    """The path through the first replica of each stage over "tcp" or "ipc"."""
    replicas = [stage.replicas[0] for stage in plan.stages]
    addresses = [r.endpoint.tcp if transport == "tcp" else r.endpoint.ipc for r in replicas]
    return tuple(
        Hop(plan.key(stage), address, replica.node, replica.executor)
        for stage, replica, address in zip(plan.stages, replicas, addresses, strict=True)
    )


def identity_model(store: BlobStore, name: str, nbytes: int, blocks: int = 2, weight_bytes: int = 0) -> ModelManifest:
    """`blocks` blocks that hand a float32 tensor of `nbytes` on untouched (aten.alias).

    Each is held with weights of its own that it does not use: with too little memory for two, the planner has to cut.
    """
    value = ValueSpec("x", "float32", ("batch", nbytes // 4))
    specs = []
    for i in range(blocks):
        graph = canonical_json(
            {
                "format": 1,
                "inputs": [value.name],
                "orders": {},
                "outputs": ["y"],
                "tensors": {},
                "nodes": [{"name": "y", "op": "aten.alias.default", "args": [{"ref": value.name}], "kwargs": {}}],
            }
        )
        weights = (_weights(store, f"{name}-{i}", weight_bytes),) if weight_bytes else ()
        digest = store.put_bytes(graph)
        specs.append(BlockSpec(f"identity{i}", digest, len(graph), weights, (value,), (value,), 1, nbytes))
    return ModelManifest(name, (value,), (value,), tuple(specs), {"batch": DimRange(1, 8, 1)})


def _weights(store: BlobStore, name: str, nbytes: int) -> TensorRef:
    """A tensor that no other name has."""
    import torch  # here, because not every benchmark needs it

    from stageline_stage.tensorfile import tensor_bytes

    array = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, nbytes, np.uint8)
    data = tensor_bytes(torch.from_numpy(array))
    return TensorRef(name, store.put_bytes(data), "uint8", (nbytes,), nbytes, len(data))
