"""Gateways on their own: a worker dies while the coordinator is away, and several gateways share the workers."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import numpy as np

from stageline import Client


def item(value):
    return {"x": np.full((1, 4), value, np.float32)}


def right(result, value):
    return bool((result.outputs["y"] == value + 2).all())


def test_without_a_coordinator_the_other_replica_takes_over(serving, cluster, eventually):
    cluster.silent = True
    eventually(lambda: "away" in serving.get("/readyz")[1], "the gateway has noticed")
    cluster.set_mode("b", "hold")
    swallowed = cluster.executors["b"].batches
    with Client(serving.client, retry=None) as client:
        futures = [client.submit("m", item(i), deadline_s=60) for i in range(60)]
        wait(futures, 40)
        assert len(swallowed) >= 2, "the dead one had work"
        assert all(right(future.result(0), i) for i, future in enumerate(futures))
        before = len(swallowed)
        assert all(right(client.infer("m", item(i), deadline_s=60), i) for i in range(50))
        assert len(swallowed) <= before + 2, "it is left alone now"
    eventually(lambda: serving.metric("stageline_gateway_overdue_total") >= 1, "it was found by itself")


def test_two_gateways_share_the_workers(serving, cluster, start_gateway, eventually):
    other = start_gateway(name="other")
    eventually(lambda: other.get("/readyz")[0] == 200, "ready")
    counts = {serving.client: 0, other.client: 0}
    enough = threading.Event()

    def ask(address):
        with Client(address) as client:
            batches = (item(i % 100) for i in range(100_000))
            for i, result in enumerate(client.infer_many("m", batches, concurrency=64)):
                assert right(result, i % 100)
                counts[address] += 1
                if min(counts.values()) >= 300:
                    enough.set()
                if enough.is_set():
                    return

    threads = [threading.Thread(target=ask, args=(address,)) for address in counts]
    for thread in threads:
        thread.start()
    assert enough.wait(60), counts
    for thread in threads:
        thread.join()
    assert max(counts.values()) <= 3 * min(counts.values()), counts
