"""The gateway as a process: rude clients, a coordinator that goes and comes, SIGTERM, footprint."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest

from stageline import Client
from stageline import protocol as p
from stageline.errors import ConnectionLostError, RejectedError, UnavailableError

X = {"x": np.ones((1, 4), np.float32)}
INFER = p.Infer(1, "m", (p.TensorSpec("x", "float32", (1, 4)),))


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([b"GET / HTTP/1.1\r\n\r\n"], "header of 1195725856 bytes"),
        ([p.Ping()], "ClientHello"),
        ([p.ClientHello(9)], "version 9 is not spoken here"),
        ([p.ClientHello(1), p.ClientHello(1)], "only the first"),
        ([p.ClientHello(1), b"\0\0\0\1\0\0\0\0\xc1"], "not a valid message"),
        ([p.ClientHello(1), b"\0\0\0\1\xff\xff\xff\xff\xc1"], "not a valid message"),
        ([p.ClientHello(1), b"\0\0\0\x08\0\0\0\1\x81\xa1t\xa4Ping!"], "Ping has no body"),
    ],
)
def test_who_breaks_the_protocol_is_told_and_disconnected(serving, frames, text, raw):
    with raw(serving.client) as client:
        assert isinstance(client.next(), p.ServerHello)
        for frame in frames:
            client.socket.sendall(frame) if isinstance(frame, bytes) else client.send(frame)
        error = client.next()
        assert isinstance(error, p.Error)
        assert (error.id, error.code) == (0, "remote_protocol")
        assert text in error.message
        assert client.next() is None
    with Client(serving.client) as other:
        assert other.infer("m", X).batch == 1


def test_an_id_twice_in_flight_ends_the_connection(serving, cluster, raw):
    cluster.set_mode("a", "hold")
    with raw(serving.client) as client:
        client.next()
        client.send(p.ClientHello(1))
        for _ in range(2):
            client.send(INFER, bytes(16))
        assert "already in flight" in client.next().message
        assert client.next() is None


def test_bytes_that_do_not_match_end_only_the_request(serving, raw):
    with raw(serving.client) as client:
        client.next()
        client.send(p.ClientHello(1))
        client.send(INFER, bytes(15))
        error = client.next()
        assert (error.id, error.code) == (1, "invalid_input")
        client.send(p.Ping(5))
        assert client.next() == p.Pong(5)


def test_accepted_comes_before_the_result_and_timings_only_if_wanted(serving, raw):
    with raw(serving.client) as client:
        client.next()
        client.send(p.ClientHello(1))
        client.send(p.Infer(9, "m", INFER.inputs, want_accepted=True), bytes(16))
        assert client.next() == p.Accepted(9)
        result = client.next()
        assert (result.id, result.timings) == (9, None)


def test_unfinished_handshakes_are_limited(serving, raw):
    waiting = [raw(serving.client) for _ in range(70)]
    try:
        first = [client.next() for client in waiting]
        refused = [m for m in first if isinstance(m, p.Error)]
        assert len(refused) >= 6
        assert {m.code for m in refused} == {"rejected"}
    finally:
        for client in waiting:
            client.socket.close()


def test_a_client_that_goes_away_leaves_nothing_behind(serving, cluster, eventually, raw):
    cluster.set_mode("a", "late")
    client = raw(serving.client)
    client.next()
    client.send(p.ClientHello(1))
    client.send(INFER, bytes(16))
    eventually(lambda: serving.metric("stageline_gateway_in_flight") == 1, "in flight")
    client.socket.close()
    eventually(lambda: serving.metric("stageline_gateway_in_flight") == 0, "forgotten")
    cluster.set_mode("a", "run")
    cluster.call(cluster.executors["a"].release)
    with Client(serving.client) as other:
        assert other.infer("m", X).outputs["y"].tolist() == [[3.0] * 4]


def test_a_client_that_does_not_read_holds_up_only_itself(cluster, start_gateway, eventually, raw):
    width = 1 << 18
    cluster.add("a")
    cluster.publish([["a"]], width=width)
    gateway = start_gateway()
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    count = 64

    def ask(client):
        specs = (p.TensorSpec("x", "float32", (1, width)),)
        for i in range(count):
            client.send(p.Infer(i + 1, "m", specs), bytes(4 * width))

    with raw(gateway.client) as lazy:
        lazy.next()
        lazy.send(p.ClientHello(1))
        sender = threading.Thread(target=ask, args=(lazy,))
        sender.start()
        eventually(lambda: gateway.metric("stageline_gateway_requests_total") >= 8, "answers pile up")
        with Client(gateway.client) as other:
            assert other.infer("m", {"x": np.ones((1, width), np.float32)}).outputs["y"][0, 0] == 2.0
        assert {lazy.next().id for _ in range(count)} == set(range(1, count + 1))
        sender.join()


class TestCoordinator:
    def test_pongs_carry_the_epoch_and_the_oldest_in_flight(self, serving, cluster, eventually):
        eventually(lambda: cluster.pongs and cluster.pongs[-1].epoch == (1, 1), "a pong with the epoch")
        cluster.set_mode("a", "late")
        with Client(serving.client) as client:
            future = client.submit("m", X, deadline_s=60)
            eventually(
                lambda: cluster.pongs and cluster.pongs[-1].oldest_in_flight == (1, 1), "in flight on the first plan"
            )
            cluster.publish([["a"], ["b"]])
            eventually(lambda: cluster.pongs and cluster.pongs[-1].epoch == (1, 2), "the new plan is applied")
            assert cluster.pongs[-1].oldest_in_flight == (1, 1)
            cluster.call(cluster.executors["a"].release)
            future.result(20)
            eventually(lambda: cluster.pongs and cluster.pongs[-1].oldest_in_flight is None, "the old plan has drained")

    def test_traffic_goes_on_without_it_and_it_is_greeted_again(self, serving, cluster, eventually):
        hellos = len(cluster.hellos)
        cluster.silent = True
        eventually(lambda: "away" in serving.get("/readyz")[1], "the gateway has noticed")
        assert serving.get("/readyz")[0] == 200
        with Client(serving.client) as client:
            assert client.infer("m", X).batch == 1
            eventually(lambda: "does not answer" in serving.log.read_text(), "the gateway complains")
            assert serving.log.read_text().count("does not answer") == 1
            cluster.call(cluster.peers.clear)
            cluster.silent = False
            eventually(lambda: len(cluster.hellos) > hellos, "hello again")
            eventually(lambda: "connected" in serving.get("/readyz")[1], "connected again")
            assert client.infer("m", X).batch == 1
        assert cluster.hellos[-1].client_address == serving.client
        assert len({hello.incarnation for hello in cluster.hellos}) == 1

    def test_rejoin(self, serving, cluster, eventually):
        hellos = len(cluster.hellos)
        cluster.rejoin()
        eventually(lambda: len(cluster.hellos) > hellos, "hello again")

    def test_a_plan_that_was_not_heard_is_fetched(self, serving, cluster, eventually):
        cluster.muted = True
        cluster.publish([["a"], ["c"]])
        eventually(lambda: cluster.pongs and cluster.pongs[-1].epoch == (1, 2), "fetched after a digest spoke of it")


class TestStop:
    def test_sigterm_lets_requests_finish_and_takes_no_new_ones(self, serving, cluster, eventually):
        cluster.set_mode("a", "late")
        with Client(serving.client, retry=None) as client:
            futures = [client.submit("m", X, deadline_s=60) for _ in range(5)]
            held = cluster.executors["a"].held
            eventually(lambda: sum(len(batch.ids) for batch, _ in held) == 5, "in flight")
            serving.terminate()
            eventually(lambda: serving.get("/readyz")[0] == 503, "not ready")
            with pytest.raises(RejectedError, match="stopping"):
                client.infer("m", X)
            cluster.call(cluster.executors["a"].release)
            wait(futures, 20)
            assert all(future.result().outputs["y"].tolist() == [[3.0] * 4] for future in futures)
        assert serving.process.wait(20) == 0

    def test_what_does_not_finish_is_told(self, cluster, start_gateway, eventually):
        cluster.add("a")
        cluster.publish([["a"]])
        gateway = start_gateway(drain_s=0.3)
        eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
        cluster.set_mode("a", "hold")
        with Client(gateway.client, retry=None) as client:
            future = client.submit("m", X, deadline_s=60)
            eventually(lambda: gateway.metric("stageline_gateway_in_flight") == 1, "in flight")
            gateway.terminate()
            with pytest.raises(UnavailableError, match="stopped before"):
                future.result(20)
        assert gateway.process.wait(20) == 0

    def test_a_killed_gateway_is_a_lost_connection(self, serving, cluster, eventually):
        cluster.set_mode("a", "hold")
        with Client(serving.client, retry=None) as client:
            future = client.submit("m", X, deadline_s=60)
            eventually(lambda: serving.metric("stageline_gateway_in_flight") == 1, "in flight")
            serving.process.send_signal(signal.SIGKILL)
            assert serving.process.wait(20) == -signal.SIGKILL
            with pytest.raises(ConnectionLostError):
                future.result(20)
            with pytest.raises(ConnectionLostError):
                client.infer("m", X)
        with pytest.raises(ConnectionLostError, match="is it running"):
            Client(serving.client)


def test_a_busy_port_is_a_usage_error(serving, tmp_path):
    port = serving.client.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "stageline_gateway", "--port", port, "--http-port", "0", "--name", "h"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_process_is_small_and_has_neither_numpy_nor_torch(serving):
    status = Path(f"/proc/{serving.process.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 80 * 1024
    mapped = Path(f"/proc/{serving.process.pid}/maps").read_text()
    assert "msgspec" in mapped
    assert "numpy" not in mapped
    assert "torch" not in mapped
