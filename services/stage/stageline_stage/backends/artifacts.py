"""Compiled stages on disk, found by everything that they depend on, and what is known of those that failed.

Layout under the root: `KEY/` with the backend's files and `artifact.json`, which names their SHA-256; `KEY.failed` with
the reason of a failure; `new-*/` while one is compiled. A folder gets its name when all of it is on disk. One process
at a time, an executor, works with a root.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from stageline.blobs import room_beside, sha256_of
from stageline.durable import sync
from stageline.manifest import canonical_json

REPORT = "artifact.json"


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a stage was compiled: seconds at its nominal sizes for torch and for the backend; its files by SHA-256."""

    backend: str
    precision: str
    eager_s: float
    seconds: float
    files: dict[str, str] = {}


def key_of(**parts: Any) -> str:
    """The name of what depends on these parts (JSON values): equal parts have equal names."""
    return hashlib.sha256(canonical_json(parts)).hexdigest()


class Artifacts:
    """At most `max_bytes` of them; those that nobody used for longest go first, those in use never."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root, self.max_bytes = root, max_bytes
        self._used: set[str] = set()
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob("new-*"):
            shutil.rmtree(left, ignore_errors=True)

    def get(self, key: str) -> Report | None:
        """A compiled stage whose files are all as they were written; one that is damaged is removed."""
        folder = self.folder(key)
        try:
            report = msgspec.json.decode((folder / REPORT).read_bytes(), type=Report)
            if all(sha256_of(folder / name) == sha for name, sha in report.files.items()):
                os.utime(folder)
                return report
        except FileNotFoundError:
            if not folder.exists():
                return None
        except (OSError, msgspec.DecodeError):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def folder(self, key: str) -> Path:
        """Where its files are."""
        return self.root / key

    def begin(self) -> Path:
        """An empty folder to compile into."""
        return Path(tempfile.mkdtemp(prefix="new-", dir=self.root))

    def put(self, key: str, made: Path, report: Report) -> Report:
        """Keep what was compiled into `made`. Raises `OSError`."""
        files = {path.name: sha256_of(path) for path in sorted(made.iterdir()) if path.is_file()}
        complete = msgspec.structs.replace(report, files=files)
        (made / REPORT).write_bytes(msgspec.json.encode(complete))
        for path in (*made.iterdir(), made):
            sync(path)
        shutil.rmtree(self.folder(key), ignore_errors=True)
        made.rename(self.folder(key))
        sync(self.root)
        return complete

    def room_for(self, nbytes: int) -> bool:
        """Make room for so many bytes; False where there is none."""
        if nbytes > self.max_bytes:
            return False
        while not self._has_room(nbytes):
            oldest = min(self._loose(), key=lambda folder: folder.stat().st_mtime, default=None)
            if oldest is None:
                return False
            shutil.rmtree(oldest)
        return True

    # --- failures -----------------------------------------------------------------------------------------------

    def failure(self, key: str) -> str:
        """Why it is not to be tried again, empty if it may be."""
        try:
            return self._failed(key).read_text()
        except OSError:
            return ""

    def fail(self, key: str, reason: str) -> None:
        """Remember not to try it again; what was compiled goes."""
        with suppress(OSError):  # a full disk: then it is tried again after the next start
            self._failed(key).write_text(reason)
        self._used.discard(key)
        shutil.rmtree(self.folder(key), ignore_errors=True)

    def forget_failures(self) -> None:
        """Whatever failed may be tried again."""
        for path in self.root.glob("*.failed"):
            path.unlink(missing_ok=True)

    # --- use ----------------------------------------------------------------------------------------------------

    def using(self, key: str, pid: int) -> None:
        """Process `pid` runs it from now on; see `distrust`."""
        self._used.add(key)
        for left in self.folder(key).glob("used-by-*"):
            left.unlink(missing_ok=True)
        (self.folder(key) / f"used-by-{pid}").touch()

    def unused(self, key: str) -> None:
        """Nobody runs it any more."""
        self._used.discard(key)
        for left in self.folder(key).glob("used-by-*"):
            left.unlink(missing_ok=True)

    def distrust(self, pid: int, how: str) -> None:
        """Process `pid` crashed: what it ran has failed."""
        for path in list(self.root.glob(f"*/used-by-{pid}")):
            self.fail(path.parent.name, f"the executor that ran it {how}")

    def _failed(self, key: str) -> Path:
        return self.root / f"{key}.failed"

    def _loose(self) -> list[Path]:
        return [path.parent for path in self.root.glob(f"*/{REPORT}") if path.parent.name not in self._used]

    def _has_room(self, nbytes: int) -> bool:
        total = sum(path.stat().st_size for path in _files(self.root))
        return total + nbytes <= self.max_bytes and nbytes <= room_beside(self.root)


def _files(root: Path) -> Iterator[Path]:
    return (path for path in root.glob("*/*") if path.is_file())
