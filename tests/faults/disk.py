"""Small disks, and what fills them up."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_BYTES = 64 << 20
FILLER = "filler"


@contextmanager
def small_disk(folder: Path, nbytes: int = DISK_BYTES) -> Iterator[Path]:
    """A directory on a disk of so many bytes, where we may mount one; otherwise a plain directory."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write until no byte is free on the disk, or twice what a small disk holds; again, what became free meanwhile."""
    with contextlib.suppress(OSError), (folder / FILLER).open("ab", buffering=0) as file:
        for _ in range(2 * DISK_BYTES >> 16):
            file.write(bytes(1 << 16))


def is_full(folder: Path) -> bool:
    """Whether no byte is free."""
    return os.statvfs(folder).f_bavail == 0


def empty(folder: Path) -> None:
    """Take the filler away."""
    (folder / FILLER).unlink()
