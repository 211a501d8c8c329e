"""`stageline cluster backup` and `restore`: the coordinator's data directory in one file."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from stageline.cli.options import chosen_data_dir, data_dir_option, json_option
from stageline.cli.output import emit_json, note, size
from stageline.errors import StoreError

if TYPE_CHECKING:
    from stageline_coordinator.backup import Contents

FILE = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
DIRECTORY = click.Path(path_type=Path, file_okay=False)
STREAM = Path("-")


@click.group("cluster")
def backups() -> None:
    """Back up what a cluster knows, and restore it.

    \b
    Example:
      stageline cluster backup monday.tar
      stageline cluster restore monday.tar --data-dir ./new
    """


@backups.command("backup")
@click.argument("file", type=FILE)
@data_dir_option("The coordinator's data directory, on this machine.")
@click.option("--keys", type=DIRECTORY, help="Also put the keys in this directory into the file: keep it safe.")
@json_option
def backup(file: Path, data_dir: Path | None, keys: Path | None, as_json: bool) -> None:
    """Write models, plans, profiles, nodes and all blobs that models need to FILE (-: stdout).

    The coordinator may run meanwhile. The file is for its owner alone (mode 0600).

    \b
    Example:
      stageline cluster backup monday.tar
      docker compose -f compose/compose.yaml exec -T coordinator stageline cluster backup - > monday.tar
    """
    from stageline_coordinator.backup import back_up

    with _written(file, secret=keys is not None) as into:
        contents = back_up(chosen_data_dir(data_dir), into, keys)
    _report("backed up", contents, as_json and file != STREAM)


@backups.command("restore")
@click.argument("file", type=FILE)
@data_dir_option("Where to restore it: a directory without a cluster.")
@click.option("--keys", type=DIRECTORY, help="Restore the keys, too, into this directory.")
@json_option
def restore(file: Path, data_dir: Path | None, keys: Path | None, as_json: bool) -> None:
    """Restore what `backup` wrote to FILE (-: stdin) for the next coordinator on that directory.

    Every byte is checked; nothing is overwritten. Join tokens that were given out serve no more; who was revoked
    since the backup has to be revoked again.

    \b
    Example:
      stageline cluster restore monday.tar --data-dir ./new
      docker compose -f compose/compose.yaml run --rm -T coordinator stageline cluster restore - < monday.tar
    """
    from stageline_coordinator.backup import restore as bring_back

    with _read(file) as source:
        contents = bring_back(chosen_data_dir(data_dir), source, keys)
    if contents.keys and keys is None:
        note("its keys are left out: --keys DIR restores them, too")
    _report("restored", contents, as_json)


def _report(what: str, contents: Contents, as_json: bool) -> None:
    total = sum(contents.blobs.values())
    if as_json:
        emit_json({"cluster": contents.cluster, "models": list(contents.models), "blobs": len(contents.blobs),
                   "bytes": total, "keys": sorted(contents.keys), "created": contents.created})  # fmt: skip
        return
    keys = f", {len(contents.keys)} key files" if contents.keys else ""
    note(f"{what} cluster {contents.cluster}: {len(contents.models)} models, {len(contents.blobs)} blobs "
         f"({size(total)}){keys}")  # fmt: skip


@contextmanager
def _written(file: Path, *, secret: bool) -> Iterator[IO[bytes]]:
    """The file, there only once all of it is written."""
    if file == STREAM:
        into = sys.stdout.buffer
        about = os.fstat(into.fileno())
        if os.isatty(into.fileno()):
            raise StoreError("a backup is no text: send it to a file")
        if secret and stat.S_ISREG(about.st_mode) and about.st_mode & 0o077:
            raise StoreError("others may read the file that stdout goes to, and keys are asked for: umask 077 first")
        yield into
        into.flush()
        return
    if file.exists():
        raise StoreError(f"{file} exists: name another file, or remove it")
    partial = file.with_name(f"{file.name}.partial")
    with suppress(FileNotFoundError):
        partial.unlink()
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as into:
            yield into
            into.flush()
            os.fsync(into.fileno())
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _read(file: Path) -> Iterator[IO[bytes]]:
    if file == STREAM:
        yield sys.stdin.buffer
        return
    with file.open("rb") as source:
        yield source
