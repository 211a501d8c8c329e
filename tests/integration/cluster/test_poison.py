"""An input that really kills the executor: it is refused, whoever shared its batch is answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stageline import Client
from stageline.admin import AdminClient
from stageline.blobs import BlobStore
from stageline.embedded.launch import Cluster, ClusterSpec, start
from stageline.errors import FailedError
from stageline.manifest import canonical_json
from stageline_stage.importer import Signature, import_module

from .conftest import Array, wait_until

COUNT = 24
LOWEST = np.iinfo(np.int64).min


class Quotient(torch.nn.Module):
    """x0 / -(x1² + 1), cut to whole numbers: the lowest x0 with x1 = 0 overflows, for which x86 raises SIGFPE."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        below = -(x[:, 1:] * x[:, 1:]) - 1
        return {"y": torch.div(x[:, :1], below, rounding_mode="trunc")}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two workers that serve the quotient, with a long wait for company so that batches are full."""
    store = BlobStore(tmp_path / "store")
    inputs = {"x": torch.ones(2, 2, dtype=torch.int64)}
    manifest = import_module(Quotient(), Signature.batched(inputs), name="quotient", store=store)
    settings = {"gateway": {"batch_delay_ms": 50}}
    with start(ClusterSpec(tmp_path / "data", nodes=2, settings=settings)) as made:
        blob = store.put_bytes(canonical_json(manifest.to_json()))
        with AdminClient(made.state.coordinator) as admin:
            admin.upload(store, [*manifest.blobs(), blob])
            admin.put_model(blob)
            wait_until(
                "it is served", lambda: (p := admin.plan().model("quotient")) is not None and p.status == "serving"
            )
        yield made


def item(numerator: int, root: int) -> dict[str, Array]:
    return {"x": np.array([[numerator, root]], np.int64)}


def crashes(cluster: Cluster) -> int:
    """How many executors ended."""
    logs = (Path(cluster.state.data_dir) / "logs").glob("stage-*.log")
    return sum(path.read_text().count("executor ended") for path in logs)


def test_only_the_poison_is_refused(cluster: Cluster) -> None:
    with Client(cluster.state.gateway) as client:
        futures = [client.submit("quotient", item(1000 + i, 1), deadline_s=60) for i in range(COUNT // 2)]
        poison = client.submit("quotient", item(LOWEST, 0), deadline_s=60)
        futures += [client.submit("quotient", item(2000 + i, 1), deadline_s=60) for i in range(COUNT // 2)]
        with pytest.raises(FailedError, match="died whenever it computed the request") as caught:
            poison.result(60)
        assert caught.value.node in {"stage-0", "stage-1"}
        answers = [int(future.result(60).outputs["y"][0, 0]) for future in futures]
        assert answers == [-(v // 2) for v in (*range(1000, 1000 + COUNT // 2), *range(2000, 2000 + COUNT // 2))]
        assert max(future.result().attempts for future in futures) > 1, "it had company when it struck"
        assert crashes(cluster) == 2
        assert int(client.infer("quotient", item(10, 0), deadline_s=60).outputs["y"][0, 0]) == -10
