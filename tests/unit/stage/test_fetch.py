"""The worker's cache: what no stage has used for long leaves it."""

from __future__ import annotations

import os
import select
from contextlib import closing
from pathlib import Path

import pytest

from stageline import logs
from stageline.blobs import BlobStore
from stageline.sockets import Sockets
from stageline_stage import fetch
from stageline_stage.fetch import Fetcher


def test_the_cache_is_swept_when_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SWEEP_EVERY_S", 0.0)
    store = BlobStore(tmp_path, max_bytes=1 << 20)
    old, pinned, fresh = (store.put_bytes(bytes([i]) * 10) for i in range(3))
    store.pin({pinned})
    for sha in (old, pinned):
        os.utime(store.path(sha), (1000.0, 1000.0))
    reader, writer = os.pipe()
    sweep = store.collect

    def collect(before: float) -> tuple[int, int]:
        found = sweep(before)
        os.write(writer, b"x")
        monkeypatch.setattr(fetch, "SWEEP_EVERY_S", 3600.0)
        return found

    monkeypatch.setattr(store, "collect", collect)
    with closing(Sockets()) as sockets, closing(Fetcher(sockets, store, "box", logs.get(), keep_s=60.0)):
        assert select.select([reader], [], [], 30)[0]
    assert [store.has(sha) for sha in (old, pinned, fresh)] == [False, True, True]
    os.close(reader)
    os.close(writer)
