"""Registered models in a data directory that no coordinator uses now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stageline.blobs import BlobStore
from stageline.catalogue import Catalogue, Report
from stageline.manifest import ModelManifest, canonical_json
from stageline.messages import ModelRow
from stageline_coordinator import registry

REGISTERED = "registered"


class DirectoryCatalogue(Catalogue):
    """Each call takes the directory's lock; `StoreError` while a coordinator has it."""

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir

    def models(self) -> tuple[ModelRow, ...]:
        """All of them; none is served."""
        return tuple(self._row(name, sha) for name, sha in registry.list_models(self._dir).items())

    def manifest(self, row: ModelRow) -> ModelManifest:
        """Read from the directory."""
        return registry.read_manifest(self._dir, row.name)

    def put(self, manifest: ModelManifest, blobs: BlobStore, report: Report) -> str:
        """Copies what the directory lacks, then registers."""
        own = BlobStore(registry.blobs_dir(self._dir))
        wanted = [sha for sha in manifest.blobs() if not own.has(sha)]
        for number, sha in enumerate(wanted):
            report("storing", number / len(wanted))
            own.put_file(blobs.path(sha))
        address = own.put_bytes(canonical_json(manifest.to_json()))
        registry.register_model(self._dir, address)
        return address

    def remove(self, name: str) -> None:
        """Forgets it; the next coordinator removes its blobs when they have not been used for long."""
        registry.remove_model(self._dir, name)

    def wait(self, name: str, manifest: str, timeout_s: float, report: Report) -> ModelRow:
        """There is nothing to wait for: the next cluster on this directory serves it."""
        return self.row(name)

    def _row(self, name: str, sha: str) -> ModelRow:
        manifest = registry.read_manifest(self._dir, name)
        return ModelRow(
            name=name,
            manifest=sha,
            status=REGISTERED,
            reason="no cluster runs",
            blocks=len(manifest.blocks),
            weight_bytes=manifest.weight_bytes,
            wishes=registry.read_wishes(self._dir).get(name),
        )


@contextmanager
def open_directory(data_dir: Path) -> Iterator[Catalogue]:
    """The catalogue of `data_dir`."""
    yield DirectoryCatalogue(data_dir)
