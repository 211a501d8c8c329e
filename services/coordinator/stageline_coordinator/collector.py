"""Removes the blobs that no model names any more, in a thread of its own and never in the way of an upload.

An upload sends blobs first and names them by a manifest at its end, and who goes on with one asks first which are
there still. So nothing is removed while anybody has stored or asked within `keep_s`, nor before this process is that
old; and of what no model names only files that nobody stored, read or asked about for as long. `BlobStore.path` marks a
use, `BlobStore.collect` looks at the mark and removes within one lock: what was found to be there stays for `keep_s`.

An upload that fails because the disk is full is the exception: it left what it had sent, and would keep every other
from succeeding. Then all that no model names goes at once; another upload under way has to be begun again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from threading import Thread

from stageline import logs
from stageline.blobs import BlobStore
from stageline.errors import BlobMissingError, StagelineError

from .registry import load_manifest
from .store import Store

EVERY_S = 600.0


class Collector:
    """`tick` from the thread that owns `store`."""

    def __init__(self, store: Store, keep_s: float, now: float) -> None:
        self._store, self._keep_s = store, keep_s
        self._next = now + min(keep_s, EVERY_S)
        self._filled_at = -math.inf
        self._log = logs.get(service="coordinator", part="collector")
        self._thread: Thread | None = None

    def tick(self, now: float, uploading_at: float, copying: Iterable[str] = (), filled_at: float = -math.inf) -> None:
        """Look whether it is time; `uploading_at`: when an upload last did something, on the clock of `now`.

        `copying`: manifests of models that come from the other coordinator. `filled_at`: when an upload last failed
        because the disk was full.
        """
        full = filled_at > self._filled_at
        due = now >= self._next and now - uploading_at >= self._keep_s
        if not (full or due) or (self._thread and self._thread.is_alive()):
            return
        self._filled_at, self._next = max(filled_at, self._filled_at), now + min(self._keep_s, EVERY_S)
        plan = self._store.plan()
        placed = [model.manifest for model in plan.models] if plan is not None else []
        named = set(self._store.models().values())
        arguments = (named, {*placed, *copying}, full)
        self._thread = Thread(target=self._collect, args=arguments, name="collector", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait until nothing is being removed."""
        if self._thread is not None:
            self._thread.join()

    def _collect(self, named: set[str], passing: set[str], full: bool) -> None:
        before = math.inf if full else time.time() - self._keep_s
        try:
            count, freed = self._store.blobs.collect(before, needed(self._store.blobs, named, passing))
        except (StagelineError, OSError) as error:
            self._log.warning("nothing is removed", reason=str(error))
            return
        if count:
            self._log.info("unused blobs removed", blobs=count, bytes=freed)


def needed(blobs: BlobStore, named: Iterable[str], passing: Iterable[str] = ()) -> frozenset[str]:
    """The addresses of those manifests and of all that they name; those of `passing` may be missing.

    Raises as `load_manifest` where one cannot be read: then nobody knows what it needs.
    """
    found = {*named, *passing}
    for manifest in named:
        found.update(load_manifest(blobs, manifest).blobs())
    for manifest in set(passing).difference(named):
        try:
            found.update(load_manifest(blobs, manifest).blobs())
        except BlobMissingError:
            continue
    return frozenset(found)
