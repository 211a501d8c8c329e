"""What an import's sandbox wrote is believed only as far as it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stageline.blobs import BlobStore
from stageline.errors import ManifestError, ModelImportError
from stageline.manifest import ModelManifest
from stageline_stage.importer import Signature, import_module
from stageline_stage.importer.pt2 import adopt


@pytest.fixture
def sandbox(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A folder as the sandbox leaves it, but for the manifest, which comes with it."""
    folder = tmp_path / "sandbox"
    signature = Signature.batched({"input": torch.randn(2, 3)})
    manifest = import_module(nn.Linear(3, 3), signature, name="m", store=BlobStore(folder / "blobs"))
    return folder, manifest.to_json()


def test_what_holds_is_taken_over(sandbox: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, document = sandbox
    (folder / "manifest.json").write_text(json.dumps(document))
    store = BlobStore(tmp_path / "store")
    assert adopt(folder, store) == ModelManifest.from_json(document)
    assert all(store.has(tensor["sha256"]) for block in document["blocks"] for tensor in block["tensors"])


@pytest.mark.parametrize("lie", [("dtype", "int32"), ("shape", None)])
def test_a_tensor_that_is_not_what_the_manifest_says(
    sandbox: tuple[Path, dict[str, Any]], tmp_path: Path, lie: tuple[str, Any]
) -> None:
    folder, document = sandbox
    tensor = document["blocks"][0]["tensors"][0]
    tensor[lie[0]] = lie[1] or [1, *tensor["shape"]]
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError, match="another dtype or shape"):
        adopt(folder, BlobStore(tmp_path / "store"))


def test_a_manifest_that_is_not_json(sandbox: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = sandbox
    (folder / "manifest.json").write_bytes(b"{" * 5000)
    with pytest.raises(ModelImportError, match="not JSON"):
        adopt(folder, BlobStore(tmp_path / "store"))
