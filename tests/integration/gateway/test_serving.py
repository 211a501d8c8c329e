"""Requests through a real gateway: answered rightly, refused clearly, and never lost with a worker."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import wait

import numpy as np
import pytest

from stageline import AsyncClient, Client
from stageline.errors import (
    CancelledError,
    ConfigError,
    DeadlineError,
    InvalidInputError,
    ModelNotFoundError,
    UnavailableError,
)

STAGES = 2


def item(value, rows=1):
    return {"x": np.full((rows, 4), value, np.float32)}


def right(result, value, rows=1):
    y = result.outputs["y"]
    return y.shape == (rows, 4) and y.dtype == np.float32 and bool((y == value + STAGES).all())


def test_an_answer_says_how_it_came_about(serving):
    with Client(serving.client) as client:
        result = client.infer("m", item(3))
    assert right(result, 3)
    assert (result.batch, result.attempts) == (1, 1)
    assert [stage.compute_us for stage in result.timings.stages] == [2, 2]
    assert result.timings.total_us >= result.timings.batch_us > 0


def test_many_clients_at_once_get_their_own_answers(serving, cluster):
    failures = []

    def blocking(start):
        with Client(serving.client) as client:
            values = range(start, start + 60)
            batches = (item(v, 1 + v % 3) for v in values)
            for value, result in zip(values, client.infer_many("m", batches, concurrency=20), strict=True):
                if not right(result, value, 1 + value % 3):
                    failures.append(value)

    async def asynchronous(start):
        async with AsyncClient(serving.client) as client:
            results = await asyncio.gather(*(client.infer("m", item(start + i)) for i in range(60)))
            failures.extend(start + i for i, result in enumerate(results) if not right(result, start + i))

    threads = [threading.Thread(target=blocking, args=(1000 * i,)) for i in range(1, 5)]
    threads += [threading.Thread(target=asyncio.run, args=(asynchronous(1000 * i),)) for i in range(5, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert serving.metric("stageline_gateway_requests_total") == 7 * 60
    assert any(len(batch.ids) > 1 for batch in cluster.executors["a"].batches)


def test_answers_come_in_any_order(serving, cluster, eventually):
    cluster.set_mode("b", "late")
    cluster.set_mode("c", "late")
    with Client(serving.client) as client:
        order = []
        futures = [client.submit("m", item(i), deadline_s=60) for i in range(12)]
        for i, future in enumerate(futures):
            future.add_done_callback(lambda _, i=i: order.append(i))
        held = [cluster.executors[n].held for n in "bc"]
        eventually(lambda: sum(len(batch.ids) for queue in held for batch, _ in queue) == 12, "all wait")
        for node in "cb":
            cluster.call(cluster.executors[node].release)
        wait(futures, 20)
        assert order != sorted(order)
        assert all(right(future.result(), i) for i, future in enumerate(futures))


def test_a_dead_worker_loses_nothing(serving, cluster, eventually):
    cluster.set_mode("b", "hold")
    with Client(serving.client) as client:
        futures = [client.submit("m", item(i), deadline_s=60) for i in range(40)]
        swallowed = cluster.executors["b"].batches
        eventually(lambda: len(swallowed) >= 2, "some are on the worker that dies")
        cluster.set_state("b", "gone")
        assert all(right(future.result(20), i) for i, future in enumerate(futures))
        assert any(future.result().attempts > 1 for future in futures)
    eventually(lambda: serving.metric("stageline_gateway_retried_total") >= 2, "retries are counted")


def test_without_a_path_requests_wait_for_a_new_worker(serving, cluster):
    with Client(serving.client) as client:
        cluster.set_state("a", "gone")
        future = client.submit("m", item(1), deadline_s=60)
        with pytest.raises(UnavailableError, match=r"no live worker for stage 1 of 2 \(planned on a\)"):
            client.infer("m", item(2), deadline_s=0.3)
        cluster.add("d")
        cluster.publish([["d"], ["c"]])
        assert right(future.result(20), 1)


def test_a_failing_stage_is_reported_with_its_node(serving, cluster):
    cluster.executors["a"].retryable = False
    cluster.set_mode("a", "fail")
    with Client(serving.client) as client, pytest.raises(Exception, match="it broke") as caught:
        client.infer("m", item(1))
    assert (caught.value.code, caught.value.node) == ("failed", "a")


def test_a_deadline_does_not_wait_for_the_batch(serving, cluster):
    cluster.set_mode("a", "hold")
    with Client(serving.client) as client, pytest.raises(DeadlineError, match="while it was computed"):
        client.infer("m", item(1), deadline_s=0.2)


def test_what_does_not_fit_is_refused_by_name(serving):
    with Client(serving.client) as client:
        with pytest.raises(InvalidInputError, match=r"'x' must have shape \(batch, 4\), got \(1, 5\)"):
            client.infer("m", {"x": np.zeros((1, 5), np.float32)})
        with pytest.raises(InvalidInputError, match="'x' must be float32, got float64"):
            client.infer("m", {"x": np.zeros((1, 4))})
        with pytest.raises(ModelNotFoundError, match="known: m"):
            client.infer("nope", item(1))
        with pytest.raises(InvalidInputError, match="complex128"):
            client.infer("m", {"x": np.zeros((1, 4), np.complex128)})
        assert right(client.infer("m", item(1)), 1)


def test_a_request_larger_than_the_limit_is_refused(cluster, start_gateway, eventually):
    cluster.add("a", "b")
    cluster.publish([["a"], ["b"]])
    gateway = start_gateway(max_request_bytes=1000)
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    with Client(gateway.client) as client:
        with pytest.raises(InvalidInputError, match="the gateway takes 1000"):
            client.infer("m", item(1, rows=64))
        assert right(client.infer("m", item(1, rows=62)), 1, rows=62)


def test_cancelling_reaches_the_gateway(serving, cluster, eventually):
    cluster.set_mode("a", "hold")
    with Client(serving.client) as client:
        future = client.submit("m", item(1), deadline_s=60)
        eventually(lambda: serving.metric("stageline_gateway_in_flight") == 1, "in flight")
        assert future.cancel()
        eventually(lambda: serving.metric("stageline_gateway_in_flight") == 0, "cancelled")

    async def cancel():
        async with AsyncClient(serving.client) as other:
            task = asyncio.ensure_future(other.infer("m", item(1), deadline_s=60))
            while serving.metric("stageline_gateway_in_flight") != 1:
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while serving.metric("stageline_gateway_in_flight") != 0:
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(cancel(), 20))
    assert CancelledError.code in serving.get("/metrics")[1]


def test_models_are_described(serving, cluster):
    with Client(serving.client) as client:
        (info,) = client.describe().values()
        assert (info.name, info.status, info.reason) == ("m", "serving", "")
        assert info.signature.inputs[0].shape == (-1, 4)
        assert client.describe("m") == {"m": info}
        with pytest.raises(ModelNotFoundError):
            client.describe("nope")


def test_readiness_says_what_is_missing(cluster, start_gateway, eventually):
    gateway = start_gateway()
    assert gateway.get("/readyz")[0] == 503
    eventually(lambda: "no models" in gateway.get("/readyz")[1], "an empty plan arrived")
    cluster.add("a")
    cluster.publish([], status="unavailable", reason="needs more memory")
    eventually(lambda: "needs more memory" in gateway.get("/readyz")[1], "the reason is shown")
    cluster.publish([["a"]])
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    cluster.set_state("a", "gone")
    eventually(lambda: gateway.get("/readyz")[0] == 503, "not ready any more")
    assert "no live worker" in json.loads(gateway.get("/readyz")[1])["models"]["m"]


def test_large_tensors(cluster, start_gateway, eventually):
    cluster.add("a", "b")
    cluster.publish([["a"], ["b"]], width=1 << 20)
    gateway = start_gateway()
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")

    reused = np.empty((2, 1 << 20), np.float32)
    futures = []
    with Client(gateway.client) as client:
        for i in range(6):
            reused[:] = i
            futures.append(client.submit("m", {"x": reused}, deadline_s=100))
        for i, future in enumerate(futures):
            assert bool((future.result(60).outputs["y"] == i + 2).all())


def test_an_address_that_is_none(serving):
    with pytest.raises(ConfigError, match="looks like"):
        Client("nonsense")
