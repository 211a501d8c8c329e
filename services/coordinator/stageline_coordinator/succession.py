"""The coordinator's own next key: made and announced first, taken when everybody has had time to hear of it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from stageline import logs
from stageline.curve import KeyPair, read_pair, write_pair
from stageline.errors import ClusterError, ConfigError
from stageline.keyfiles import COORDINATOR, COORDINATOR_KEY, COORDINATOR_KEY_NEXT

from .store import Store


class Succession:
    """`directory`: the coordinator's keys, None without. `public` is the next key, empty if there is none."""

    def __init__(self, directory: Path | None, store: Store) -> None:
        self._directory, self._store = directory, store
        self._due = store.key_due()
        self.public = b""
        if directory is not None and self._due:
            self.public = read_pair(directory / COORDINATOR_KEY_NEXT)[0].public

    @property
    def due(self) -> bool:
        """Whether it is time to take it."""
        return bool(self.public) and time.time() >= self._due

    def begin(self, overlap_s: float) -> bytes:
        """Make the next key, to be taken in so many seconds; again: the same one, at another time.

        Raises `ClusterError` without keys, `ConfigError` if it cannot be written.
        """
        if self._directory is None:
            raise ClusterError("this cluster has no keys, so there are none to change: see `stageline keys init`")
        path = self._directory / COORDINATOR_KEY_NEXT
        if not path.exists():
            write_pair(path, KeyPair.fresh(), COORDINATOR)
        public = read_pair(path)[0].public
        due = time.time() + overlap_s
        self._store.save_key_due(due)
        self.public, self._due = public, due
        logs.get(service="coordinator", part="keys").info("another key will be taken", key=public.hex()[:16], at=due)
        return public


def take_next(directory: Path | None, store: Store) -> None:
    """At a start: the next key takes the place of the one of before, if it is time."""
    due = store.key_due()
    if directory is None or not due:
        return
    path = directory / COORDINATOR_KEY_NEXT
    if path.exists() and time.time() < due:
        return
    with suppress(FileNotFoundError):  # it was taken, and that not written down any more
        try:
            path.replace(directory / COORDINATOR_KEY)
        except PermissionError as error:
            raise ConfigError(f"cannot write {directory}: {error.strerror}") from None
    store.save_key_due(0.0)
