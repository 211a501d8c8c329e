"""`.pt2` archives: cleaned here, loaded in a child without privileges, and believed only after checking."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from stageline.blobs import BlobStore
from stageline.errors import BY_CODE, ManifestError, ModelError, ModelImportError
from stageline.manifest import ModelManifest
from stageline_stage.graph.codec import decode, dtype_name
from stageline_stage.importer.archive import clean_copy
from stageline_stage.tensorfile import load_tensor

TIMEOUT_S = 900
SLACK_BYTES = 64 << 20
MAX_MANIFEST_BYTES = 256 << 20


def import_pt2(path: Path, *, name: str, store: BlobStore, source: str) -> ModelManifest:
    """Import the program in a `.pt2` file.

    Raises `UnsafeArchiveError` for pickled payloads, `UnsupportedOperatorError`, and `ModelImportError` for a file
    that is missing, damaged or takes too long.
    """
    if not path.is_file():
        raise ModelImportError(f"there is no file {path.name}: give the path of a torch.export archive")
    with tempfile.TemporaryDirectory(prefix="stageline-pt2-") as scratch:
        folder = Path(scratch)
        tensor_bytes = clean_copy(path, folder / "clean.pt2")
        request = {"name": name, "source": source, "max_file_bytes": tensor_bytes + SLACK_BYTES}
        (folder / "request.json").write_text(json.dumps(request))
        _run_child(folder)
        manifest = adopt(folder, store)
    if manifest.name != name:  # it would replace another model
        raise ModelImportError(f"loading the .pt2 file gave a model of another name, {manifest.name}")
    return manifest


def _run_child(folder: Path) -> None:
    command = [sys.executable, "-I", "-m", "stageline_stage.importer.sandbox", str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ModelImportError(f"loading the .pt2 file took longer than {TIMEOUT_S} s and was stopped") from error
    if (folder / "error.json").is_file():
        report = json.loads((folder / "error.json").read_bytes())
        kind = BY_CODE.get(str(report.get("code")), ModelImportError)
        raise (kind if issubclass(kind, ModelError) else ModelImportError)(str(report.get("message"))[:1000])
    if child.returncode != 0:
        last = (child.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise ModelImportError(f"loading the .pt2 file ended with status {child.returncode}: {last:.200}")


def adopt(folder: Path, store: BlobStore) -> ModelManifest:
    """Take over the child's blobs that its manifest names into `store`, trusting none of them.

    `folder` holds `manifest.json` and `blobs`. Raises `ModelImportError`, `ManifestError`, `BlobMissingError` and
    `BlobCorruptError` for what is missing, damaged or not what the manifest says.
    """
    manifest_file = folder / "manifest.json"
    if not manifest_file.is_file() or manifest_file.stat().st_size > MAX_MANIFEST_BYTES:
        raise ModelImportError("loading the .pt2 file gave no manifest")
    try:
        document = json.loads(manifest_file.read_bytes())
    except (ValueError, RecursionError):
        raise ModelImportError("loading the .pt2 file gave a manifest that is not JSON") from None
    manifest = ModelManifest.from_json(document)
    made = BlobStore(folder / "blobs")
    for block in manifest.blocks:
        data = made.read(block.graph)
        graph = decode(data)
        if set(graph.tensors.values()) != {tensor.sha256 for tensor in block.tensors}:
            raise ManifestError(f"block {block.name!r} and its graph name different tensors")
        store.put_bytes(data)
    for tensor in {t.sha256: t for block in manifest.blocks for t in block.tensors}.values():
        found = load_tensor(made.path(tensor.sha256))
        if (dtype_name(found.dtype), tuple(found.shape)) != (tensor.dtype, tensor.shape):
            raise ManifestError(f"tensor {tensor.name!r} has another dtype or shape than the manifest says")
        made.verify(tensor.sha256)
        store.put_file(made.path(tensor.sha256))
    return manifest
