"""Records of single trials, kept in a file of JSON lines, so that a benchmark can be run in sittings that add up.

What a trial depends on is told by a fingerprint: records of another one do not count, and stay where they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any


def fingerprint(files: Iterable[Path], *settings: object) -> str:
    """Of the contents of files and the `repr` of settings; twelve hexadecimal digits."""
    found = sha256(repr(settings).encode())
    for file in sorted(files):
        found.update(file.name.encode() + b"\0" + sha256(file.read_bytes()).digest())
    return found.hexdigest()[:12]


class Book:
    """The records of one fingerprint by key; the last of equal keys counts. A line that was cut off is left out."""

    def __init__(self, path: Path, print_: str) -> None:
        self.path, self._print = path, print_
        self.records: dict[str, dict[str, Any]] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            entry = _entry(line)
            if entry.get("fingerprint") == print_:
                self.records[entry["key"]] = entry["record"]

    def add(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep it on disk at once."""
        self.records[key] = dict(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"fingerprint": self._print, "key": key, "record": record}).encode()
        with self.path.open("ab") as file:
            start = b"\n" if self._torn() else b""
            file.write(start + line + b"\n")

    def _torn(self) -> bool:
        """Whether the file ends within a line."""
        if not self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read() != b"\n"


def _entry(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
