"""What the user may name as a model: `hf:…`, a `.pt2` file, or `module:factory`."""

from __future__ import annotations

from pathlib import Path

from stageline.blobs import BlobStore
from stageline.errors import ModelImportError
from stageline.manifest import ModelManifest
from stageline.modelsource import default_name, source_kind
from stageline_stage.importer.assemble import Progress, import_module, no_progress
from stageline_stage.importer.factory import load_factory
from stageline_stage.importer.pt2 import import_pt2


def import_model(
    source: str,
    *,
    store: BlobStore,
    name: str | None = None,
    random_weights: int | None = None,
    progress: Progress | None = None,
    task: str | None = None,
) -> ModelManifest:
    """Import the model that `source` names and write its blobs to `store`.

    `source` is `hf:ORG/NAME` or a local Hugging Face directory (`hf:DIR` or `DIR`), a `.pt2` file, or
    `module:factory`. `random_weights` builds a Hugging Face model from its config alone, with that seed. `task`
    overrides the kind of model that a Hugging Face config implies. `progress(step, fraction)` is called now and
    then. Raises `ModelImportError`, `UnsupportedOperatorError`, `UnsafeArchiveError`, `StoreError`.
    """
    report = progress or no_progress
    kind = source_kind(source)
    if kind != "hf" and (random_weights is not None or task is not None):
        raise ModelImportError("random weights and a task can only be asked of a Hugging Face model (hf:…)")
    if kind == "hf":
        return _import_hf(source, name, random_weights, task, store, report)
    if kind == "factory":
        report("building the model", 0.0)
        module, signature = load_factory(source)
        return import_module(
            module, signature, name=name or default_name(source), store=store, source=source, progress=report
        )
    path = Path(source)
    report("loading the archive", 0.0)
    manifest = import_pt2(path, name=name or default_name(source), store=store, source=path.name)
    report("done", 1.0)
    return manifest


def _import_hf(
    source: str, name: str | None, seed: int | None, task: str | None, store: BlobStore, report: Progress
) -> ModelManifest:
    from stageline_stage.importer.hf import described, load_hf  # transformers takes seconds to import

    location = source.removeprefix("hf:")
    report("loading the model", 0.0)
    chosen = name or default_name(source)
    module, signature = load_hf(location, seed=seed, task=task)
    origin = described(location) if seed is None else f"{described(location)} with random weights, seed {seed}"
    return import_module(module, signature, name=chosen, store=store, source=origin, progress=report)
