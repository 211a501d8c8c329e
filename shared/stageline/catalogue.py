"""The registered models, and registering more through a running coordinator."""

from __future__ import annotations

import json
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from stageline.admin import AdminClient
from stageline.blobs import BlobStore
from stageline.errors import ManifestError, ModelNotFoundError, NotReadyError, PlacementError
from stageline.manifest import ModelManifest, Tolerance, canonical_json
from stageline.messages import ModelRow

Report = Callable[[str, float], None]
"""Called with what is being done now and the fraction done, in [0, 1]."""

POLL_S = 0.1
UNAVAILABLE_S = 10.0
"""How long a model may be reported unavailable before waiting for it ends: nodes may still be joining."""


class Catalogue(ABC):
    """What can be done with registered models."""

    @abstractmethod
    def models(self) -> tuple[ModelRow, ...]:
        """All of them."""

    @abstractmethod
    def manifest(self, row: ModelRow) -> ModelManifest:
        """What a model is."""

    @abstractmethod
    def put(self, manifest: ModelManifest, blobs: BlobStore, report: Report) -> str:
        """Register a model whose blobs are in `blobs`; returns the address of its manifest."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Forget a model; `ModelNotFoundError` if there is none of that name."""

    @abstractmethod
    def wait(self, name: str, manifest: str, timeout_s: float, report: Report) -> ModelRow:
        """Wait until the model is served."""

    def row(self, name: str) -> ModelRow:
        """One of them; `ModelNotFoundError` names those that there are."""
        rows = self.models()
        for row in rows:
            if row.name == name:
                return row
        known = ", ".join(row.name for row in rows) or "none"
        raise ModelNotFoundError(f"no model is called {name}: registered are {known}")


class ClusterCatalogue(Catalogue):
    """Through the coordinator."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin

    def models(self) -> tuple[ModelRow, ...]:
        """All of them."""
        return self._admin.models()

    def manifest(self, row: ModelRow) -> ModelManifest:
        """Fetched from the coordinator."""
        return parse_manifest(self._admin.download(row.manifest))

    def put(self, manifest: ModelManifest, blobs: BlobStore, report: Report) -> str:
        """Uploads what the coordinator lacks, then registers."""
        address = blobs.put_bytes(canonical_json(manifest.to_json()))

        def uploaded(sent: int, total: int) -> None:
            report("uploading", sent / total if total else 1.0)

        self._admin.upload(blobs, [*manifest.blobs(), address], uploaded)
        self._admin.put_model(address)
        return address

    def declare(self, name: str, tolerance: Tolerance) -> None:
        """Register a model again, with another tolerance; nothing is uploaded but its manifest."""
        row = self.row(name)
        old = self.manifest(row)
        with tempfile.TemporaryDirectory(prefix="stageline-") as folder:
            self.put(replace(old, tolerance=tolerance), BlobStore(Path(folder)), lambda *_: None)

    def remove(self, name: str) -> None:
        """Asks the coordinator to."""
        self._admin.remove_model(name)

    def wait(self, name: str, manifest: str, timeout_s: float, report: Report) -> ModelRow:
        """Raises `PlacementError` when it cannot be served now, `NotReadyError` after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        stuck_since: float | None = None
        while True:
            row = self.row(name)
            if row.status == "serving" and self._is_served(name, manifest):
                return row
            now = time.monotonic()
            stuck_since = (stuck_since or now) if row.status == "unavailable" else None
            if stuck_since is not None and now - stuck_since > min(UNAVAILABLE_S, timeout_s):
                raise PlacementError(f"{name} is registered but cannot be served: {row.reason or 'no plan fits'}")
            if now > deadline:
                reason = f" ({row.reason})" if row.reason else ""
                raise NotReadyError(
                    f"{name} is still {row.status}{reason} after {timeout_s:g} s: "
                    "look at `stageline status`, or raise --timeout"
                )
            report(row.status, 1.0)
            time.sleep(POLL_S)

    def _is_served(self, name: str, manifest: str) -> bool:
        """Whether the plan serves this very manifest: a model may have replaced another of its name."""
        placed = self._admin.plan().model(name)
        return placed is not None and placed.manifest == manifest and placed.status == "serving"


def parse_manifest(data: bytes) -> ModelManifest:
    """Read a manifest blob; raises `ManifestError`."""
    try:
        return ModelManifest.from_json(json.loads(data))
    except ValueError:
        raise ManifestError("the manifest is not valid JSON: import the model again") from None
