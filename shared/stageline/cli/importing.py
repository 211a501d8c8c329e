"""Running the importer, the one part of the command line that needs torch: in this process, or in a container."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

from stageline.blobs import BlobStore
from stageline.catalogue import Report
from stageline.cli.containers import Containers, import_in
from stageline.cli.output import note
from stageline.errors import ConfigError
from stageline.manifest import ModelManifest

SCRATCH = "importing-"


def cache_home() -> Path:
    """Where what can be made again lies (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stageline"


@contextmanager
def importing(
    source: str, *, name: str | None, random_weights: int | None, task: str | None, progress: Report,
    containers: Containers | None = None,
) -> Iterator[tuple[ModelManifest, BlobStore]]:  # fmt: skip
    """The imported model and its blobs, which are gone after the block.

    With `containers` in one of those, if the flags ask for it or the importer is not installed here; without,
    `ConfigError` when it is not. Raises what `import_model` raises, or `stageline.importjob.run.import_in_container`.
    """
    missing = "" if containers and containers.wanted else _missing()
    if missing and containers is None:
        raise ConfigError(f"importing a model needs {missing}, which is not installed: pip install 'stageline[import]'")
    with ExitStack() as stack:
        engine = None
        if containers and (missing or containers.wanted):
            if missing:
                note(f"{missing} is not installed here: importing in a container of {containers.image}")
            engine = stack.enter_context(containers.reached(missing))
        store = BlobStore(stack.enter_context(scratch(cache_home())))
        if engine is None or containers is None:
            manifest = _import_here(source, name, random_weights, task, store, progress)
        else:
            manifest = import_in(
                engine, containers, source, name=name, random_weights=random_weights, task=task, store=store,
                progress=progress,
            )  # fmt: skip
        yield manifest, store


def _missing() -> str:
    """The package that the importer lacks; empty if it can run here."""
    try:
        import stageline_stage.importer  # noqa: F401
    except ModuleNotFoundError as error:
        return error.name or "a package"
    return ""


def _import_here(
    source: str, name: str | None, random_weights: int | None, task: str | None, store: BlobStore, progress: Report
) -> ModelManifest:
    from stageline_stage.importer import import_model

    with redirect_stdout(sys.stderr):  # what a model's code prints is no result of the command
        return import_model(source, name=name, store=store, random_weights=random_weights, task=task, progress=progress)


@contextmanager
def scratch(home: Path) -> Iterator[Path]:
    """A folder in `home` that is gone after the block; those of processes that were killed go first."""
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home):  # so that none is seen between being made and being locked
        for left in home.glob(f"{SCRATCH}*"):
            _remove_unless_locked(left)
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=home))
        mine = os.open(folder, os.O_RDONLY)
        fcntl.flock(mine, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(mine)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_unless_locked(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # gone, or another user's
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:  # in use
        pass
    finally:
        os.close(descriptor)
