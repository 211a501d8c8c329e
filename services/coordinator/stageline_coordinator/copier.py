"""The thread that copies the blobs of models from the other coordinator, each verified before it is used."""

from __future__ import annotations

import json
import os
from collections import deque
from threading import Condition, Thread

from stageline import logs
from stageline.blobs import BlobStore
from stageline.errors import StagelineError
from stageline.manifest import ModelManifest
from stageline.sockets import Sockets
from stageline.transfer import Interrupted, Transfer


class Copier:
    """`want` and `prefetch` from the owner's thread; `done` gives the manifests whose blobs are all here."""

    def __init__(self, sockets: Sockets, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._log = logs.get(service="coordinator", part="copier")
        self._changed = Condition()
        self._models: deque[str] = deque()
        self._loose: deque[str] = deque()
        self._closed = False
        self._done: deque[tuple[str, bool]] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._transfer = Transfer(sockets, blobs, b"", lambda: self._closed, self._log)
        self._thread = Thread(target=self._run, name="copier", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable when something was done."""
        return self._event

    @property
    def address(self) -> str:
        """Where blobs come from."""
        return self._transfer.address

    @address.setter
    def address(self, address: str) -> None:
        self._transfer.address = address

    @property
    def bytes_copied(self) -> int:
        return self._transfer.bytes_fetched

    def want(self, manifest: str) -> None:
        """Have everything that this manifest names, and the manifest."""
        with self._changed:
            self._models.append(manifest)
            self._changed.notify()

    def prefetch(self, blob: str) -> None:
        """Have this one when there is nothing more urgent: a model will need it."""
        with self._changed:
            self._loose.append(blob)
            self._changed.notify()

    def done(self) -> list[tuple[str, bool]]:
        """Manifests that were wanted, and whether all their blobs are here."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return []
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._transfer.close()
        os.close(self._event)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._models or self._loose):
                    self._changed.wait()
                if self._closed:
                    return
                model = self._models.popleft() if self._models else ""
                loose = "" if model else self._loose.popleft()
            done = self._copy(model or loose, whole=bool(model))
            if model and done is not None:
                self._done.append((model, done))
                os.eventfd_write(self._event, 1)

    def _copy(self, sha: str, *, whole: bool) -> bool | None:
        """Whether all of it is here; None when we are closed."""
        try:
            if not self._blobs.has(sha):
                self._transfer.get({sha: None})
            if whole:
                manifest = ModelManifest.from_json(json.loads(self._blobs.read(sha)))
                self._transfer.get(manifest.blobs())
            return True
        except Interrupted:
            return None
        except (StagelineError, ValueError, RecursionError) as error:
            self._log.warning("blobs could not be copied", blob=sha[:12], reason=str(error))
            return False
