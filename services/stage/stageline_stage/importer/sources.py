"""What the user may name as a model: `hf:…`, a `.pt2` file, or `module:factory`."""

from __future__ import annotations

import re
from pathlib import Path

from stageline.blobs import BlobStore
from stageline.errors import ModelImportError
from stageline.manifest import MODEL_NAME, ModelManifest
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
        chosen = name or model_name(source.rsplit(":", 1)[1])
        return import_module(module, signature, name=chosen, store=store, source=source, progress=report)
    path = Path(source)
    report("loading the archive", 0.0)
    chosen = name or model_name(path.stem)
    manifest = import_pt2(path, name=chosen, store=store, source=path.name)
    report("done", 1.0)
    return manifest


def _import_hf(
    source: str, name: str | None, seed: int | None, task: str | None, store: BlobStore, report: Progress
) -> ModelManifest:
    from stageline_stage.importer.hf import described, load_hf  # transformers takes seconds to import

    location = source.removeprefix("hf:")
    report("loading the model", 0.0)
    chosen = name or model_name(Path(location).resolve().name)
    module, signature = load_hf(location, seed=seed, task=task)
    origin = described(location) if seed is None else f"{described(location)} with random weights, seed {seed}"
    return import_module(module, signature, name=chosen, store=store, source=origin, progress=report)


def source_kind(source: str) -> str:
    """ "hf", "pt2" or "factory"; `ModelImportError` for anything else."""
    if source.startswith("hf:") or Path(source, "config.json").is_file():
        return "hf"
    if source.endswith(".pt2"):
        return "pt2"
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source):
        return "factory"
    raise ModelImportError(
        f"{source!r} names no model: give hf:ORG/NAME, a Hugging Face directory, a .pt2 file, or module:factory"
    )


def model_name(text: str) -> str:
    """A valid model name made from a source's last part."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64]
    if not re.fullmatch(MODEL_NAME, name):
        raise ModelImportError("no model name can be made from the source: give one with --name")
    return name
