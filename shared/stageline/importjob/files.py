"""What of a model's source goes into its job: files of this machine, and whether it may reach a network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stageline.errors import ConfigError, ModelImportError
from stageline.modelsource import source_kind

READ = (".json", ".safetensors")
"""What a Hugging Face directory is read for; everything else in it is named in the job, but empty."""

SECRET = ".key"


@dataclass(frozen=True)
class Parcel:
    """`source`: what the job is told; `files`: where each lies here, by its path there, None if it is empty there.

    `network`: whether the weights have to be fetched.
    """

    source: str
    files: Mapping[str, Path | None] = field(default_factory=dict)
    network: bool = False


def parcel(source: str, include: Sequence[Path] = (), here: Path | None = None) -> Parcel:
    """What `source` needs; a factory's module is looked for in `here`, the working directory, as Python would.

    Raises `ModelImportError` for what names no model, `ConfigError` for what cannot or should not be sent.
    """
    kind = source_kind(source)
    if include and kind != "factory":
        raise ConfigError("--include is for the code of factories (module:callable): leave it out")
    if kind == "factory":
        return Parcel(source, _code(source.partition(":")[0].partition(".")[0], include, here or Path.cwd()))
    path = Path(source.removeprefix("hf:"))
    if kind == "pt2":
        if not path.is_file():
            raise ModelImportError(f"there is no file {path.name}: give the path of a torch.export archive")
        return Parcel(path.name, {path.name: path})
    if not path.is_dir():
        return Parcel(source, network=True)
    name = path.resolve().name or "model"
    files = sorted(one for one in path.iterdir() if one.is_file())
    return Parcel(f"hf:{name}", {f"{name}/{one.name}": one if one.suffix in READ else None for one in files})


def _code(module: str, include: Sequence[Path], here: Path) -> dict[str, Path | None]:
    """The module's file or package, where it is here and not one of the image's, and what else was named."""
    named = [Path(os.path.normpath(here / one)) for one in include]
    for path in named:
        if not path.exists():
            raise ConfigError(f"--include names {path}, which is not there")
    own = [path for path in (here / f"{module}.py", here / module) if path.exists()]
    found: dict[str, Path | None] = {}
    for path in (*own, *named):
        inside = path.is_relative_to(here)
        name = path.relative_to(here) if inside else Path(path.name)
        for file in _beneath(path, here if inside else path):
            found[(name / file.relative_to(path)).as_posix()] = file
    return found


def _beneath(path: Path, root: Path) -> Iterator[Path]:
    """The files of a folder, or the file itself; nothing hidden or compiled. Raises `ConfigError`."""
    if path.is_file():
        yield _checked(path, root)
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(one for one in folders if not one.startswith(".") and one != "__pycache__")
        for name in (*folders, *sorted(one for one in names if not one.startswith("."))):
            file = _checked(Path(folder, name), root)
            if name not in folders:
                yield file


def _checked(path: Path, root: Path) -> Path:
    """Whoever wrote the code may have put a link there to what is nobody's business, and a key is nobody's."""
    target = path.resolve()
    if not target.is_relative_to(root.resolve()):
        raise ConfigError(f"{path} is a link that leads out of {root}: put there what it leads to, or remove it")
    if SECRET in (path.suffix, target.suffix):
        raise ConfigError(f"{path} is a secret key, which a model's code must not see: include less")
    if not path.is_file() and not path.is_dir():
        raise ConfigError(f"{path} is neither a file nor a folder: remove it, or include less")
    return path
