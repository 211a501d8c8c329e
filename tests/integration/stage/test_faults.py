"""What a worker makes of deaths, hangs, broken downloads and restarts; each test proves its fault first."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch

from stageline.data import Activation
from stageline.messages import (
    BLOB_CHUNK_BYTES,
    BlobGet,
    ExecutorDown,
    ExecutorUp,
    Hello,
    Pong,
    Prepare,
    Prepared,
    PrepareFailed,
)
from stageline.plan import StageKey

WIDTH = 1024


@pytest.fixture
def slow(models: Any) -> StageKey:
    block = models.block("slow", WIDTH, "aten.matmul.default", torch.eye(WIDTH), repeat=4000)
    return StageKey(manifest=models.model(block), start=0, end=1)


@pytest.fixture
def quick(models: Any) -> StageKey:
    block = models.block("quick", 8, "aten.relu.default")
    return StageKey(manifest=models.model(block), start=0, end=1)


@pytest.fixture
def big(models: Any) -> tuple[StageKey, str]:
    """A stage with a tensor of several chunks, and the SHA-256 of that tensor."""
    block = models.block("big", WIDTH, "aten.linear.default", torch.rand(WIDTH, WIDTH))
    (ref,) = block.tensors
    assert ref.blob_bytes > 4 * BLOB_CHUNK_BYTES
    return StageKey(manifest=models.model(block), start=0, end=1), ref.sha256


def compute_something(cluster: Any, key: StageKey, ids: int) -> None:
    """Have the executor be busy with a batch of `ids` requests."""
    cluster.push(cluster.activation(torch.ones(ids, WIDTH), key))
    cluster.wait_for(Pong, lambda pong: bool(pong.progress) and pong.progress[0].current_age_s > 0)


def test_a_killed_executor_is_reported_with_what_it_computed_and_replaced(cluster: Any, slow: StageKey) -> None:
    cluster.join()
    cluster.prepare(1, slow)
    compute_something(cluster, slow, ids=3)
    asked = len(cluster.blob_requests)
    os.kill(cluster.executor.pid, signal.SIGKILL)
    down = cluster.wait_for(ExecutorDown)
    assert down.executor == cluster.executor.executor and down.exit_code == -signal.SIGKILL
    assert down.computing == (0, 1, 2)

    up = cluster.wait_for(ExecutorUp)
    assert up.executor.executor != down.executor and up.executor.pid != cluster.executor.pid
    assert up.executor.loaded == ()
    cluster.executor = up.executor
    assert isinstance(cluster.prepare(2, slow), Prepared)
    assert len(cluster.blob_requests) == asked, "the cache has it all"


def test_a_stopped_executor_is_killed_and_reported(cluster: Any, quick: StageKey, signals: Any, gone: Any) -> None:
    cluster.join()
    cluster.prepare(1, quick)
    signals(cluster.executor.pid)
    down = cluster.wait_for(ExecutorDown)
    assert "stopped" in down.reason and down.exit_code == -signal.SIGKILL
    gone(cluster.executor.pid)
    cluster.executor = cluster.wait_for(ExecutorUp).executor
    assert isinstance(cluster.prepare(2, quick), Prepared)
    cluster.push(cluster.activation(torch.ones(1, 8), quick))
    assert isinstance(cluster.result()[0], Activation)


def test_an_executor_dies_with_its_agent(cluster: Any, slow: StageKey, gone: Any) -> None:
    cluster.join()
    cluster.prepare(1, slow)
    compute_something(cluster, slow, ids=1)
    cluster.agents[0].kill()
    assert cluster.agents[0].wait(10) == -signal.SIGKILL
    gone(cluster.executor.pid)


def test_a_broken_download_goes_on_where_it_stopped(cluster: Any, big: tuple[StageKey, str]) -> None:
    key, tensor = big
    cluster.join()
    cluster.tell(Prepare(term=1, version=1, stages=(key,)))
    cluster.wait_for(BlobGet, lambda r: r.sha256 == tensor and r.offset == 3 * BLOB_CHUNK_BYTES)
    cluster.serve_blobs = False
    partial = cluster.folder / "cache" / "partial" / tensor
    cluster.wait_for(Pong, lambda _: partial.exists() and partial.stat().st_size >= 2 * BLOB_CHUNK_BYTES)
    cluster.agents[0].kill()
    assert cluster.agents[0].wait(10) == -signal.SIGKILL
    have = partial.stat().st_size
    assert 0 < have < len(cluster.models.blobs[tensor])

    cluster.serve_blobs = True
    cluster.blob_requests.clear()
    cluster.join()
    assert isinstance(cluster.prepare(1, key), Prepared)
    assert min(r.offset for r in cluster.blob_requests if r.sha256 == tensor) == have


def test_a_corrupt_blob_is_refused_and_never_loaded(cluster: Any, big: tuple[StageKey, str]) -> None:
    key, tensor = big
    good = cluster.models.blobs[tensor]
    cluster.models.blobs[tensor] = good[:-1] + bytes([good[-1] ^ 1])
    cluster.join()
    failed = cluster.prepare(1, key)
    assert isinstance(failed, PrepareFailed) and failed.code == "blob_corrupt" and failed.stage == key
    assert str(cluster.folder) not in failed.message
    cluster.models.blobs[tensor] = good
    assert isinstance(cluster.prepare(2, key), Prepared)


def test_a_missing_blob_fails_the_prepare(cluster: Any, big: tuple[StageKey, str]) -> None:
    key, tensor = big
    del cluster.models.blobs[tensor]
    cluster.join()
    failed = cluster.prepare(1, key)
    assert isinstance(failed, PrepareFailed) and failed.code == "blob_missing"


def test_a_damaged_cache_heals(cluster: Any, big: tuple[StageKey, str]) -> None:
    key, tensor = big
    cluster.join()
    cluster.prepare(1, key)
    cluster.agents[0].kill()
    cluster.agents[0].wait(10)
    cached = cluster.folder / "cache" / tensor[:2] / tensor
    data = bytearray(cached.read_bytes())
    data[-1] ^= 1
    cached.write_bytes(data)

    cluster.blob_requests.clear()
    cluster.join()
    assert isinstance(cluster.prepare(1, key), Prepared)
    assert tensor in {r.sha256 for r in cluster.blob_requests}
    assert cached.read_bytes() == cluster.models.blobs[tensor]


def test_a_cache_that_is_too_small_says_so(cluster: Any, big: tuple[StageKey, str]) -> None:
    cluster.join("--cache-max-bytes", "100000")
    failed = cluster.prepare(1, big[0])
    assert isinstance(failed, PrepareFailed) and failed.code == "store" and "limit" in failed.message


def test_weights_beyond_the_memory_are_refused(cluster: Any, big: tuple[StageKey, str]) -> None:
    hello = cluster.join("--memory-bytes", "1000000")
    assert hello.node.memory_bytes == 1000000 + hello.node.base_bytes
    failed = cluster.prepare(1, big[0])
    assert isinstance(failed, PrepareFailed) and "does not fit" in failed.message


def test_a_coordinator_may_come_back_while_batches_go_on(cluster: Any, quick: StageKey) -> None:
    first = cluster.join()
    cluster.prepare(1, quick)
    cluster.sockets.release(cluster.control)
    cluster.push(cluster.activation(torch.ones(2, 8), quick))
    assert isinstance(cluster.result()[0], Activation)

    cluster.restart()
    again = cluster.wait_for(Hello)
    assert again.incarnation == first.incarnation
    assert again.node.executors[0].executor == cluster.executor.executor
    assert again.node.executors[0].loaded == (quick,)
    cluster.push(cluster.activation(torch.ones(2, 8), quick))
    assert isinstance(cluster.result()[0], Activation)
