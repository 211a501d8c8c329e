"""Asks a coordinator to write."""

from __future__ import annotations

import shutil
import uuid

from stageline.admin import AdminClient
from stageline.blobs import BlobStore
from stageline.errors import StagelineError

from .rig import Rig

BLOB_BYTES = 1 << 20
PATIENCE_S = 15.0
"""More than SQLite waits for a lock."""


def refused_writes(rig: Rig) -> list[str]:
    """What the coordinator says when it is asked to write a blob and a row; empty if it could."""
    said = []
    store = BlobStore(rig.folder / f"odd-{uuid.uuid4().hex[:6]}")
    blob = store.put_bytes(rig.random.randbytes(BLOB_BYTES))
    with AdminClient(rig.coordinator.address, timeout_s=PATIENCE_S) as admin:
        for write in (lambda: admin.upload(store, [blob]), lambda: admin.put_model(rig.manifest)):
            try:
                write()
            except StagelineError as error:
                said.append(str(error))
    shutil.rmtree(store.root)
    return said
