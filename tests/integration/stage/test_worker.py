"""A real agent and its executor: join, profile, prepare, compute, leave."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from stageline.data import DATA_VERSION, Activation, Cancel, Failure, Hop, Timing, encode_frames, header_bytes
from stageline.lifecycle import EXIT_USAGE
from stageline.messages import Farewell, Hello, Leaving, Pong, Prepared, Profiled, ProfileRequest, Rejoin, Retire
from stageline.plan import StageKey

WIDTH = 48


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def manifest(models: Any, weight: torch.Tensor) -> str:
    linear = models.block("linear", WIDTH, "aten.linear.default", weight)
    return models.model(linear, models.block("tanh", WIDTH, "aten.tanh.default"))


def stage(manifest: str, start: int, end: int) -> StageKey:
    return StageKey(manifest=manifest, start=start, end=end)


def expected(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch.tanh(torch.nn.functional.linear(x, weight))
    finally:
        torch.set_num_threads(threads)


def test_join_profile_prepare_and_compute(cluster: Any, manifest: str, weight: torch.Tensor) -> None:
    hello = cluster.join()
    node = hello.node
    assert node.device == "cpu" and len(node.fingerprint) == 64 and node.memory_bytes > node.base_bytes > 0

    cluster.tell(ProfileRequest(manifest=manifest, blocks=(1, 0), batches=(1, 4)))
    profiled = cluster.wait_for(Profiled)
    assert profiled.error == "" and profiled.fingerprint == node.fingerprint
    assert [(t.block, t.batch) for t in profiled.times] == [(1, 1), (1, 4), (0, 1), (0, 4)]
    assert all(t.seconds > 0 for t in profiled.times)
    tensors = {sha for sha, data in cluster.models.blobs.items() if not data.startswith(b"{")}
    assert not tensors & {r.sha256 for r in cluster.blob_requests}, "profiling must not need weights"

    halves = (stage(manifest, 0, 1), stage(manifest, 1, 2))
    assert isinstance(cluster.prepare(1, *halves), Prepared)
    generator = torch.Generator().manual_seed(5)
    for batch in (1, 3, 8):
        x = torch.randn(batch, WIDTH, generator=generator)
        cluster.push(cluster.activation(x, *halves, number=batch))
        header, (y,) = cluster.result()
        assert isinstance(header, Activation) and header.batch == batch and header.finished
        assert len(header.timings) == 2 and isinstance(header.timings[0], Timing)
        assert torch.equal(y, expected(x, weight))
    cluster.wait_for(Pong, lambda pong: pong.epoch == (1, 1) and pong.progress[0].items_done == 24)
    assert cluster.ready()


def test_what_is_loaded_is_not_fetched_again_and_retire_unloads(cluster: Any, manifest: str) -> None:
    cluster.join()
    first, second = stage(manifest, 0, 1), stage(manifest, 1, 2)
    cluster.prepare(1, first, second)
    asked = len(cluster.blob_requests)
    cluster.prepare(2, second)
    assert len(cluster.blob_requests) == asked

    cluster.tell(Retire(term=1, version=2, keep=(second,)))
    x = torch.ones(2, WIDTH)
    cluster.push(cluster.activation(x, second))
    assert isinstance(cluster.result()[0], Activation)
    cluster.tell(Rejoin())
    hello = cluster.wait_for(Hello)
    assert hello.node.executors[0].loaded == (second,)
    answered = True
    while answered:  # the executor is told at once, and goes on answering until it has heard it
        cluster.push(cluster.activation(x, first))
        failure, _ = cluster.result()
        answered = isinstance(failure, Activation)
    assert isinstance(failure, Failure) and failure.code == "not_loaded" and failure.retryable
    assert failure.executor == cluster.executor.executor and failure.node == "n1"


def test_gateways_get_turns(cluster: Any, models: Any) -> None:
    """One has a hundred batches waiting when another's ten come, all of them with later deadlines."""
    slow = models.model(models.block("slow", WIDTH, "aten.tanh.default", repeat=200))
    cluster.join()
    whole = stage(slow, 0, 1)
    cluster.prepare(1, whole)
    x = torch.ones(1, WIDTH)
    crowd = [cluster.activation(x, whole, number=i, gateway="crowd", deadline_ns=i) for i in range(1, 101)]
    few = [cluster.activation(x, whole, number=i, gateway="few", deadline_ns=1000 + i) for i in range(1, 11)]
    cluster.push(*crowd, *few)
    order = [cluster.result()[0].gateway for _ in range(110)]
    first, last = order.index("few"), len(order) - order[::-1].index("few")
    assert last < len(order), "the ten did not overtake anybody"
    between = order[first:last].count("crowd")
    assert between <= 20, f"{between} of the crowd's were computed while ten of the other's waited"


def test_bad_batches_fail_alone(cluster: Any, manifest: str, weight: torch.Tensor) -> None:
    cluster.join()
    whole = stage(manifest, 0, 2)
    cluster.prepare(1, whole)
    x = torch.ones(1, WIDTH)
    frames = cluster.activation(x, whole, number=9)
    header = bytes(header_bytes(memoryview(frames[0]))[0])
    cluster.push(
        [b"nonsense"],
        [frames[0][:-1]],
        [frames[0], b"more"],
        [header],
        [header, b"short"],
        cluster.activation(torch.ones(1, WIDTH + 1), whole, number=8),
        frames,
    )
    failure, _ = cluster.result()
    assert isinstance(failure, Failure) and failure.batch == 8 and not failure.retryable
    assert failure.code == "failed" and "/" not in failure.message
    done, (y,) = cluster.result()
    assert done.batch == 9 and torch.equal(y, expected(x, weight))


def test_urgent_batches_overtake(cluster: Any, models: Any) -> None:
    slow = models.block("slow", 1024, "aten.matmul.default", torch.eye(1024), repeat=300)
    key = stage(models.model(slow), 0, 1)
    cluster.join()
    cluster.prepare(1, key)
    x = torch.ones(8, 1024)
    priorities = [5, 5, 5, 0]
    cluster.push(*(cluster.activation(x, key, number=i, priority=p) for i, p in enumerate(priorities)))
    order = [cluster.result()[0].batch for _ in priorities]
    assert sorted(order) == [0, 1, 2, 3] and order.index(3) < order.index(2)


def test_the_agent_stays_small_and_without_torch(cluster: Any, manifest: str) -> None:
    hello = cluster.join()
    cluster.prepare(1, stage(manifest, 0, 2))
    maps = Path(f"/proc/{hello.pid}/maps").read_text()
    assert "libtorch" not in maps and "numpy" not in maps
    assert "libtorch" in Path(f"/proc/{cluster.executor.pid}/maps").read_text()
    status = Path(f"/proc/{hello.pid}/status").read_text()
    (resident,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 60 << 10


def test_sigterm_finishes_the_work_and_exits_cleanly(cluster: Any, models: Any, gone: Any) -> None:
    slow = models.block("slow", 1024, "aten.matmul.default", torch.eye(1024), repeat=100)
    key = stage(models.model(slow), 0, 1)
    cluster.join()
    cluster.prepare(1, key)
    (agent,) = cluster.agents
    agent.send_signal(signal.SIGTERM)
    assert cluster.wait_for(Leaving).name == "n1"
    assert not cluster.ready()
    cluster.push(*(cluster.activation(torch.ones(4, 1024), key, number=i) for i in range(5)))
    assert isinstance(cluster.result()[0], Activation), "it serves until it may go"
    cluster.tell(Farewell())
    assert [cluster.result()[0].batch for _ in range(4)] == [1, 2, 3, 4]
    assert agent.wait(30) == 0
    gone(cluster.executor.pid)


def test_without_a_coordinator_it_complains_and_sigterm_ends_it(cluster: Any, manifest: str) -> None:
    cluster.join()
    cluster.sockets.release(cluster.control)
    agent = cluster.agents[0]
    complaint = next(line.decode() for line in agent.stderr if b"the coordinator does not answer" in line)
    assert cluster.address in complaint
    os.kill(agent.pid, signal.SIGTERM)
    assert agent.wait(30) == 0


def test_a_device_that_is_not_there_is_a_usage_error(cluster: Any) -> None:
    for device, text in (("cuda:77", b"there is cpu"), ("tpu", b"must be auto, cpu or cuda:N")):
        agent = cluster.start("--device", device)
        _, stderr = agent.communicate(timeout=60)
        assert agent.returncode == EXIT_USAGE and text in stderr


def test_batches_that_nobody_waits_for_cost_no_computing(cluster: Any, manifest: str, weight: torch.Tensor) -> None:
    cluster.join()
    whole = stage(manifest, 0, 2)
    cluster.prepare(1, whole)
    hop = Hop(whole, cluster.executor.endpoint.ipc, "n1", cluster.executor.executor)
    x = torch.ones(2, WIDTH)
    cluster.push(
        encode_frames(Cancel(DATA_VERSION, "g1", (2, 3, 4), (hop,))),
        *(cluster.activation(x, whole, number=number) for number in range(1, 6)),
    )
    outcomes = [cluster.result() for _ in range(5)]
    assert [header.batch for header, _ in outcomes if isinstance(header, Failure)] == [2, 3, 4]
    assert {header.code for header, _ in outcomes if isinstance(header, Failure)} == {"cancelled"}
    for header, values in outcomes:
        assert isinstance(header, Failure) or torch.equal(values[0], expected(x, weight))
    cluster.wait_for(Pong, lambda pong: pong.progress[0].items_done == 4 and pong.progress[0].queue_depth == 0)
