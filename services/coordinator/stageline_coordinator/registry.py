"""Models: what is checked before one is registered, and how to do so while no coordinator runs.

The offline functions take the data directory's lock, so they raise `StoreError` while a coordinator has it.
"""

from __future__ import annotations

import json
from pathlib import Path

from stageline.blobs import BlobStore
from stageline.errors import BlobMissingError, ManifestError, ModelNotFoundError
from stageline.manifest import ModelManifest
from stageline.wishes import Wishes

from .store import BLOBS_DIR, Store

MAX_MANIFEST_BYTES = 64 << 20


def load_manifest(blobs: BlobStore, sha: str) -> ModelManifest:
    """Read and check the manifest blob. Raises `BlobMissingError`, `BlobCorruptError` or `ManifestError`."""
    if blobs.path(sha).stat().st_size > MAX_MANIFEST_BYTES:
        raise ManifestError(f"blob {sha[:12]}… is no manifest: it is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        document = json.loads(blobs.read(sha))
    except (ValueError, RecursionError):
        raise ManifestError(f"blob {sha[:12]}… is no manifest: it is not JSON") from None
    return ModelManifest.from_json(document)


def check_model(blobs: BlobStore, sha: str) -> ModelManifest:
    """The manifest, every blob of which is here, and counts as just used.

    Raises as `load_manifest`, `BlobMissingError` naming what lacks.
    """
    manifest = load_manifest(blobs, sha)
    missing = [blob for blob in manifest.blobs() if not _touch(blobs, blob)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BlobMissingError(
            f"model {manifest.name!r} lacks blob {missing[0]}{more}: upload every blob that the manifest names first"
        )
    return manifest


def _touch(blobs: BlobStore, sha: str) -> bool:
    try:
        blobs.path(sha)
    except BlobMissingError:
        return False
    return True


def register_model(data_dir: Path, manifest_sha: str) -> ModelManifest:
    """Register the model whose blobs lie in the data directory's blob store; replaces one of the same name."""
    with Store(data_dir) as store:
        manifest = check_model(store.blobs, manifest_sha)
        store.claim_term()
        store.put_model(manifest.name, manifest_sha)
        return manifest


def list_models(data_dir: Path) -> dict[str, str]:
    """SHA-256 of each registered model's manifest by name."""
    with Store(data_dir) as store:
        return store.models()


def remove_model(data_dir: Path, name: str) -> None:
    """Forget the model; `ModelNotFoundError` if there is none of that name. A coordinator removes its blobs later."""
    with Store(data_dir) as store:
        if name not in store.models():
            raise ModelNotFoundError(f"no model {name!r} is registered: see `stageline models list`")
        store.claim_term()
        store.remove_model(name)


def read_manifest(data_dir: Path, name: str) -> ModelManifest:
    """The manifest of a registered model; `ModelNotFoundError` if there is none of that name."""
    with Store(data_dir) as store:
        sha = store.models().get(name)
        if sha is None:
            raise ModelNotFoundError(f"no model {name!r} is registered: see `stageline models list`")
        return load_manifest(store.blobs, sha)


def read_wishes(data_dir: Path) -> dict[str, Wishes]:
    """What is wanted of models' plans, by name, where something was said."""
    with Store(data_dir) as store:
        return store.wishes()


def blobs_dir(data_dir: Path) -> Path:
    """Where the data directory's blobs lie, for an offline import."""
    return data_dir / BLOBS_DIR
