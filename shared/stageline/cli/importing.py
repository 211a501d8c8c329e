"""Running the importer: the one part of the command line that needs torch."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from stageline.blobs import BlobStore
from stageline.catalogue import Report
from stageline.errors import ConfigError
from stageline.manifest import ModelManifest


def cache_home() -> Path:
    """Where what can be made again lies (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stageline"


@contextmanager
def importing(
    source: str, *, name: str | None, random_weights: int | None, task: str | None, progress: Report
) -> Iterator[tuple[ModelManifest, BlobStore]]:
    """The imported model and its blobs, which are gone after the block.

    Raises `ConfigError` when the importer is not installed, else what `import_model` raises.
    """
    try:
        from stageline_stage.importer import import_model
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"importing a model needs {error.name}, which is not installed: pip install 'stageline[import]'"
        ) from None
    cache_home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="import-", dir=cache_home()) as scratch:
        store = BlobStore(Path(scratch))
        with redirect_stdout(sys.stderr):  # what a model's code prints is no result of the command
            manifest = import_model(
                source, name=name, store=store, random_weights=random_weights, task=task, progress=progress
            )
        yield manifest, store
