"""The Python clients when things go wrong: connections break, gateways die, answers are refused for a while."""

from __future__ import annotations

import asyncio
import select
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from stageline import AsyncClient, Client, Retry
from stageline.errors import ConnectionLostError, DeadlineError, InvalidInputError, RejectedError

X = {"x": np.ones((1, 4), np.float32)}
SOON = Retry(first_s=0.01, longest_s=0.05, reconnect_s=15.0, attempts=50)


class Proxy:
    """Passes bytes on until it is told to cut every connection."""

    def __init__(self, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.accepted = 0
        self.pairs = []
        self.stop_in, self.stop_out = socket.socketpair()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def cut(self):
        with self.lock:
            for a, b in self.pairs:
                a.shutdown(socket.SHUT_RDWR)
                b.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.stop_in.send(b"x")
        self.thread.join()

    def _run(self):
        host, port = self.target.rsplit(":", 1)
        ends = {}
        while True:
            ready, _, _ = select.select([self.listener, self.stop_out, *ends], [], [])
            if self.stop_out in ready:
                break
            for one in ready:
                if one is self.listener:
                    a = self.listener.accept()[0]
                    b = socket.create_connection((host, int(port)))
                    ends[a], ends[b] = b, a
                    with self.lock:
                        self.pairs.append((a, b))
                        self.accepted += 1
                elif one in ends:
                    self._pass(one, ends)
        for one in (*ends, self.listener, self.stop_in, self.stop_out):
            one.close()

    def _pass(self, one, ends):
        other = ends[one]
        try:
            data = one.recv(65536)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        with self.lock:
            self.pairs = [pair for pair in self.pairs if one not in pair]
        for end in (one, other):
            del ends[end]
            end.close()


@pytest.fixture
def proxy(serving):
    made = Proxy(serving.client)
    try:
        yield made
    finally:
        made.close()


def right(result):
    return result.outputs["y"].tolist() == [[3.0] * 4]


def computed(cluster):
    return sum(len(batch.ids) for batch in cluster.executors["a"].batches)


def test_a_connection_that_breaks_computes_nothing_twice(serving, cluster, eventually, proxy):
    cluster.set_mode("a", "late")
    with Client(proxy.address, retry=SOON) as client:
        futures = [client.submit("m", X, deadline_s=60) for _ in range(20)]
        eventually(lambda: serving.metric("stageline_gateway_in_flight") == 20, "in flight")
        proxy.cut()
        eventually(lambda: serving.metric("stageline_gateway_attached_total") == 20, "attached again")
        assert proxy.accepted == 2
        cluster.set_mode("a", "run")
        cluster.call(cluster.executors["a"].release)
        assert all(right(future.result(20)) for future in futures)
        assert computed(cluster) == 20


def test_an_answer_that_got_lost_is_given_again(serving, cluster, eventually, proxy):
    cluster.set_mode("b", "late")
    cluster.set_mode("c", "late")
    client = Client(proxy.address, retry=Retry(first_s=0.5, longest_s=0.5))
    with client:
        future = client.submit("m", X, deadline_s=60)
        held = [cluster.executors[n].held for n in "bc"]
        eventually(lambda: any(held), "computed but for the last stage")
        proxy.cut()
        eventually(lambda: proxy.pairs == [], "cut")
        for node in "bc":
            cluster.set_mode(node, "run")
            cluster.call(cluster.executors[node].release)
        assert right(future.result(20))
        assert computed(cluster) == 1


def test_asyncio_reconnects_too(serving, cluster, eventually, proxy):
    async def main():
        cluster.set_mode("a", "late")
        async with AsyncClient(proxy.address, retry=SOON) as client:
            tasks = [asyncio.ensure_future(client.infer("m", X, deadline_s=60)) for _ in range(10)]
            while await asyncio.to_thread(serving.metric, "stageline_gateway_in_flight") != 10:
                await asyncio.sleep(0.01)
            proxy.cut()
            while await asyncio.to_thread(serving.metric, "stageline_gateway_attached_total") != 10:
                await asyncio.sleep(0.01)
            cluster.set_mode("a", "run")
            cluster.call(cluster.executors["a"].release)
            assert all(right(result) for result in await asyncio.gather(*tasks))
            proxy.cut()
            assert right(await client.infer("m", X, deadline_s=20))

    asyncio.run(asyncio.wait_for(main(), 60))
    assert computed(cluster) == 11


def test_another_gateway_takes_over(serving, cluster, start_gateway, eventually):
    other = start_gateway(name="other")
    eventually(lambda: other.get("/readyz")[0] == 200, "ready")
    with Client([serving.client, other.client], retry=SOON) as client:
        assert client.server.gateway == "g"
        cluster.set_mode("a", "late")
        futures = [client.submit("m", X, deadline_s=60) for _ in range(5)]
        eventually(lambda: serving.metric("stageline_gateway_in_flight") == 5, "in flight")
        serving.process.send_signal(signal.SIGKILL)
        assert serving.process.wait(20) == -signal.SIGKILL
        eventually(lambda: other.metric("stageline_gateway_in_flight") == 5, "taken over")
        cluster.set_mode("a", "run")
        cluster.call(cluster.executors["a"].release)
        assert all(right(future.result(20)) for future in futures)
        assert client.server.gateway == "other"

    async def main():
        async with AsyncClient([serving.client, other.client], retry=SOON) as client:
            assert right(await client.infer("m", X))
            assert client.server.gateway == "other"

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_gateway_that_comes_back_is_found_again(serving, cluster, start_gateway, eventually):
    port = serving.client.rsplit(":", 1)[1]
    with Client(serving.client, retry=SOON) as client:
        serving.process.send_signal(signal.SIGKILL)
        serving.process.wait(20)
        future = client.submit("m", X, deadline_s=60)
        again = start_gateway(port=port)
        assert right(future.result(30))
        assert again.client == serving.client


def test_a_full_gateway_is_asked_again(cluster, start_gateway, eventually):
    cluster.add("a", "b")
    cluster.publish([["a"], ["b"]])
    gateway = start_gateway(max_in_flight=4)
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    with Client(gateway.client, retry=SOON) as client:
        assert client.server.limits.max_in_flight == 4
        futures = [client.submit("m", X, deadline_s=60) for _ in range(64)]
        assert all(right(future.result(60)) for future in futures)
    assert 'outcome="rejected"' in gateway.get("/metrics")[1]
    cluster.set_mode("a", "hold")
    with Client(gateway.client, retry=None) as client:
        held = [client.submit("m", X, deadline_s=60) for _ in range(4)]
        with pytest.raises(RejectedError, match="4 requests are in flight, which is the limit") as caught:
            client.infer("m", X)
        assert caught.value.retry_after_s > 0
        assert not any(future.done() for future in held)


def test_without_retries_a_broken_connection_is_an_error_and_the_next_request_connects(serving, cluster, proxy):
    cluster.set_mode("a", "hold")
    with Client(proxy.address, retry=None) as client:
        future = client.submit("m", X, deadline_s=60)
        proxy.cut()
        with pytest.raises(ConnectionLostError):
            future.result(20)
        cluster.set_mode("a", "run")
        assert right(client.infer("m", X))


def test_no_gateway_at_any_address(serving):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ConnectionLostError, match="is it running"):
        Client([closed, closed])
    with Client([closed, serving.client]) as client:
        assert right(client.infer("m", X))


def test_a_server_that_is_no_gateway(eventually):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ConnectionLostError, match=r"did not greet within 0\.2 s"):
            Client(address, connect_timeout_s=0.2)

        async def main():
            async with AsyncClient(address, connect_timeout_s=0.2):
                pass

        with pytest.raises(ConnectionLostError, match=r"did not greet within 0\.2 s"):
            asyncio.run(main())


def test_the_users_own_key(serving, cluster):
    with Client(serving.client, user="u") as first:
        one = first.infer("m", X, idempotency_key="order-7")
    with Client(serving.client, user="u") as second:
        assert second.infer("m", X, idempotency_key="order-7").outputs["y"].tolist() == one.outputs["y"].tolist()
        with pytest.raises(InvalidInputError, match="'order-7' was used with other inputs: use a new key"):
            second.infer("m", {"x": np.zeros((1, 4), np.float32)}, idempotency_key="order-7")
        assert computed(cluster) == 1
        assert right(second.infer("m", X))
    with Client(serving.client, user="v") as other:
        assert right(other.infer("m", X, idempotency_key="order-7"))
    assert computed(cluster) == 3


def test_many_with_progress(serving):
    batches = [{"x": np.full((1, 4), i, np.float32)} for i in range(30)]
    seen = []
    with Client(serving.client) as client:
        results = list(client.infer_many("m", batches, concurrency=7, progress=seen.append))
        assert [r.outputs["y"][0, 0] for r in results] == [i + 2 for i in range(30)]
        assert seen == list(range(1, 31))
        bad = [X, {"x": np.zeros((1, 5), np.float32)}, X]
        outcomes = list(client.infer_many("m", bad, return_errors=True))
        assert [isinstance(o, InvalidInputError) for o in outcomes] == [False, True, False]
        with pytest.raises(InvalidInputError):
            list(client.infer_many("m", bad))

    async def main():
        async with AsyncClient(serving.client) as client:
            return [r async for r in client.infer_many("m", batches, concurrency=7, progress=seen.append)]

    assert len(asyncio.run(main())) == 30
    assert seen == [*range(1, 31)] * 2


def test_a_deadline_that_is_past_is_told_without_asking(serving):
    with Client(serving.client) as client, pytest.raises(DeadlineError, match="before the request was sent"):
        client.infer("m", X, deadline_s=-0.5)


def test_it_works_where_torch_cannot_be_imported(serving):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np, stageline\n"
        f"with stageline.Client({serving.client!r}) as client:\n"
        "    print(client.infer('m', {'x': np.ones((1, 4), np.float32)}).outputs['y'].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[[3.0, 3.0, 3.0, 3.0]]"


def test_closing_ends_what_waits(serving, cluster):
    cluster.set_mode("a", "hold")
    client = Client(serving.client)
    future = client.submit("m", X, deadline_s=60)
    client.close()
    with pytest.raises(ConnectionLostError, match="closed"):
        future.result(20)
    with pytest.raises(ConnectionLostError, match="closed"):
        client.infer("m", X)
    client.close()
