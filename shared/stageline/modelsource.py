"""What the user may name as a model: `hf:…` or a directory, a `.pt2` file, or `module:factory`. No torch here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from stageline.errors import ModelImportError
from stageline.manifest import MODEL_NAME

Kind = Literal["hf", "pt2", "factory"]


def source_kind(source: str) -> Kind:
    """Which of them it is. Raises `ModelImportError` for anything else."""
    if source.startswith("hf:") or Path(source, "config.json").is_file():
        return "hf"
    if source.endswith(".pt2"):
        return "pt2"
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source):
        return "factory"
    raise ModelImportError(
        f"{source!r} names no model: give hf:ORG/NAME, a Hugging Face directory, a .pt2 file, or module:factory"
    )


def default_name(source: str) -> str:
    """What a model is called that was given no name. Raises `ModelImportError` where none can be made."""
    kind = source_kind(source)
    if kind == "factory":
        return model_name(source.rsplit(":", 1)[1])
    path = Path(source.removeprefix("hf:"))
    return model_name(path.stem if kind == "pt2" else path.resolve().name)


def model_name(text: str) -> str:
    """A valid model name made from a source's last part."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64]
    if not re.fullmatch(MODEL_NAME, name):
        raise ModelImportError("no model name can be made from the source: give one with --name")
    return name
