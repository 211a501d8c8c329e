"""Whether a file has been written or replaced since the last look."""

from __future__ import annotations

from pathlib import Path


class Watch:
    """Of some files; one that cannot be found counts as another state. Looking costs a `stat` each."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen = self._state()

    def changed(self) -> bool:
        """Whether any has changed since this was last asked."""
        before, self._seen = self._seen, self._state()
        return before != self._seen

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(map(_state_of, self._paths))


def _state_of(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_ino, found.st_size)
