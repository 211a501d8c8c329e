"""A gateway with a journal: killed with requests in flight, it takes them up again, and each ends once and rightly."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from stageline import Client, Retry
from stageline import protocol as p
from stageline.errors import RejectedError

SOON = Retry(first_s=0.01, longest_s=0.05, reconnect_s=20.0, attempts=50)
COUNT = 24


def item(value):
    return {"x": np.full((1, 4), value, np.float32)}


def asked(number, key):
    return p.Infer(
        number, "m", (p.TensorSpec("x", "float32", (1, 4)),), deadline_ms=60_000, idempotency_key=key,
        want_accepted=True,
    )  # fmt: skip


def right(result, value):
    return bool((result.outputs["y"] == value + 2).all())


@pytest.fixture
def journaled(cluster, start_gateway, eventually, tmp_path):
    cluster.add("a", "b")
    cluster.publish([["a"], ["b"]])
    gateway = start_gateway(journal=tmp_path / "journal")
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    return gateway


def kill(gateway):
    gateway.process.send_signal(signal.SIGKILL)
    assert gateway.process.wait(20) == -signal.SIGKILL


def computed(cluster):
    return sum(len(batch.ids) for batch in cluster.executors["a"].batches)


def test_killed_with_requests_in_flight_it_answers_each_once(
    journaled, cluster, start_gateway, eventually, raw, tmp_path
):
    cluster.set_mode("a", "hold")
    with Client(journaled.client, retry=SOON) as client, raw(journaled.client) as watcher:
        watcher.greet()
        futures = [client.submit("m", item(i), deadline_s=60) for i in range(COUNT)]
        for i in range(COUNT):
            watcher.send(asked(i + 1, f"mine-{i}"), np.full((1, 4), 100 + i, np.float32).tobytes())
        assert {watcher.next() for _ in range(COUNT)} == {p.Accepted(i + 1) for i in range(COUNT)}
        eventually(lambda: journaled.metric("stageline_gateway_in_flight") == 2 * COUNT, "all are in flight")
        assert not any(future.done() for future in futures)
        kill(journaled)
        cluster.set_mode("a", "run")
        cluster.call(cluster.executors["a"].batches.clear)
        again = start_gateway(journal=tmp_path / "journal", port=journaled.client.rsplit(":", 1)[1])
        assert all(right(future.result(30), i) for i, future in enumerate(futures))
        eventually(lambda: computed(cluster) == 2 * COUNT, "also those are computed whose client has not come back")
    with raw(again.client) as watcher:
        watcher.greet()
        for i in range(COUNT):
            watcher.send(asked(i + 1, f"mine-{i}"), np.full((1, 4), 100 + i, np.float32).tobytes())
        outcomes = [watcher.next() for _ in range(2 * COUNT)]
    assert {m.id for m in outcomes if isinstance(m, p.Accepted)} == set(range(1, COUNT + 1))
    assert sorted(m.id for m in outcomes if isinstance(m, p.Result)) == list(range(1, COUNT + 1))
    assert computed(cluster) == 2 * COUNT, "nothing was computed twice"


def test_answers_are_given_again_after_a_restart(journaled, cluster, start_gateway, tmp_path):
    with Client(journaled.client, retry=None) as client:
        before = client.infer("m", item(5), idempotency_key="order-7").outputs["y"]
    journaled.terminate()
    assert journaled.process.wait(20) == 0
    again = start_gateway(journal=tmp_path / "journal")
    cluster.set_mode("a", "hold")
    with Client(again.client, retry=None) as client:
        result = client.infer("m", item(5), idempotency_key="order-7")
    assert result.outputs["y"].tolist() == before.tolist()
    assert computed(cluster) == 1


def test_what_a_stop_left_over_goes_on_after_it(cluster, start_gateway, eventually, raw, tmp_path):
    cluster.add("a")
    cluster.publish([["a"]])
    gateway = start_gateway(journal=tmp_path / "journal", drain_s=0.2)
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    cluster.set_mode("a", "hold")
    with raw(gateway.client) as client:
        client.greet()
        client.send(asked(1, "k"), bytes(16))
        assert client.next() == p.Accepted(1)
        gateway.terminate()
        assert client.next().code == "unavailable"
    assert gateway.process.wait(20) == 0
    cluster.set_mode("a", "run")
    start_gateway(journal=tmp_path / "journal")
    eventually(lambda: computed(cluster) == 2, "computed after the restart")


def test_a_full_disk_refuses_and_disturbs_nobody_else(journaled, cluster, eventually):
    pid = journaled.process.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    cluster.publish([["a"], ["b"]], width=1 << 18)
    wide = {"x": np.ones((1, 1 << 18), np.float32)}
    eventually(lambda: cluster.pongs and cluster.pongs[-1].epoch == (1, 2), "the wider model is known")
    with Client(journaled.client, retry=None) as client, Client(journaled.client, retry=SOON) as patient:
        client.infer("m", wide, deadline_s=30)
        cluster.set_mode("a", "late")
        refused = client.submit("m", wide, deadline_s=60, idempotency_key="k")
        with pytest.raises(RejectedError, match="journal cannot be written") as caught:
            refused.result(20)
        assert caught.value.retry_after_s > 0
        cluster.set_mode("a", "run")
        assert bool((client.infer("m", wide, deadline_s=30).outputs["y"] == 3).all()), (
            "without a key nothing is promised"
        )
        future = patient.submit("m", wide, deadline_s=60)
        eventually(lambda: 'outcome="rejected"' in journaled.get("/metrics")[1], "refused")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert bool((future.result(30).outputs["y"] == 3).all())
    assert "the journal can be written again" in journaled.log.read_text()


def test_a_journal_in_use_is_a_usage_error(journaled, tmp_path):
    command = [sys.executable, "-m", "stageline_gateway", "--port", "0", "--http-port", "0", "--name", "h"]
    command += ["--journal", str(tmp_path / "journal")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "another gateway uses this directory" in done.stderr
    assert "Traceback" not in done.stderr
