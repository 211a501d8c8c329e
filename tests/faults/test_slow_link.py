"""A link that lets less through than before is noticed by what passes it, and measured anew, beside the traffic.

Real sockets, an executor's data plane, two agents' probers and the coordinator's decisions; both ways, of activations
and of probes, lead through proxies.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from faults.proxy import Proxy, ProxyThread
from faults.toxics import Bandwidth

from stageline import logs
from stageline.data import DATA_VERSION, Activation, Hop, Tensor, encode_frames
from stageline.messages import DATA, ExecutorInfo, Hello, NodeInfo, Passage, Pong, ProbeRequest, Progress
from stageline.passing import Passing
from stageline.plan import Endpoint, StageKey
from stageline.sockets import Sockets
from stageline_coordinator import events
from stageline_coordinator.cluster import Cluster, Memory, Settings
from stageline_coordinator.rows import node_rows
from stageline_stage.executor.batches import Work
from stageline_stage.executor.queue import WorkQueue
from stageline_stage.executor.traffic import Bell, Host, Traffic
from stageline_stage.probing import Prober

LOG = logs.get(service="test")
DEADLINE_S = 60.0
BEAT_S, LOOK_S = 0.1, 0.005
BATCH = bytes(100_000)
UNDER_WAY = 4
FAST, SLOW = 2_500_000.0, 625_000.0
STAGE = StageKey(manifest="a" * 64, start=0, end=1)
PATH = tuple(Hop(STAGE, "tcp://127.0.0.1:1", node, f"{node}/x") for node in "ab")
AB = ("agent:a", "agent:b")


class Receiver:
    """The data plane of an executor, b's, and the thread that would compute."""

    def __init__(self, sockets: Sockets) -> None:
        data, self.endpoint = sockets.bind_data("127.0.0.1")
        self.queue: WorkQueue[Work] = WorkQueue(Bell(sockets, data).ring)
        self.made = threading.Event()
        self.batches = 0
        self._sockets, self._data = sockets, data
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.made.wait(DEADLINE_S)

    def _run(self) -> None:
        host = Host("b", "b/x")
        self.traffic = Traffic(
            host, self._sockets, self._data, queue=self.queue, call_io=lambda: None, passing=Passing(), log=LOG
        )
        self.made.set()
        while not self.queue.closed:
            self.traffic.wait()
            while self.queue.take() is not None:
                self.batches += 1

    def close(self) -> None:
        self.queue.close()
        self._thread.join(DEADLINE_S)


class World:
    """Two workers, a link from a to b that both proxies lead to, and the coordinator's state machine."""

    def __init__(self, stack: ExitStack) -> None:
        proxies = stack.enter_context(ProxyThread())
        sockets = [stack.enter_context(closing(Sockets())) for _ in range(3)]
        self.prober, answers = (stack.enter_context(closing(Prober(one, "127.0.0.1", "", LOG))) for one in sockets[:2])
        self.receiver = stack.enter_context(closing(Receiver(sockets[1])))
        self.links = [self._proxy(proxies, one) for one in (self.receiver.endpoint, answers.endpoint)]
        self.push = sockets[2].connect(DATA, self.links[0].address)
        self.cluster = Cluster(Settings(1, "c", "tcp://p", "tcp://b"), Memory(), time.monotonic())
        self.sent, self._beat_at = 0, 0.0
        for name, probe in (("a", self.prober.endpoint.tcp), ("b", self.links[1].address)):
            self._handle(events.Heard(f"agent:{name}", hello(name, probe)))

    @staticmethod
    def _proxy(proxies: ProxyThread, endpoint: Endpoint) -> Proxy:
        host, port = endpoint.tcp.removeprefix("tcp://").split(":")
        return proxies.proxy((host, int(port)))

    def limit(self, bytes_per_s: float) -> None:
        """What the link lets through from now on, either way."""
        for proxy in self.links:
            proxy.heal()
            proxy.add(Bandwidth(bytes_per_s), "up")
            proxy.add(Bandwidth(bytes_per_s), "down")

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Let traffic flow until that is so."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, f"{what}: {self.rate(AB)}"
            self._step()

    def rate(self, ends: tuple[str, str]) -> float:
        """Bytes/s that plans reckon with."""
        link = self.cluster.measuring.links.book.planned.get(ends)
        return link.bytes_per_s if link is not None else 0.0

    def _step(self) -> None:
        now = time.monotonic()
        while self.sent - self.receiver.batches < UNDER_WAY and self.push.poll(0, 2):
            self.sent += 1
            self.push.send_multipart(encode_frames(batch(self.sent), [BATCH]))
        if now >= self._beat_at:
            self._beat_at = now + BEAT_S
            for end, passages in (("a", ()), ("b", (self.receiver.traffic.passage(now),))):
                self._handle(events.Heard(f"agent:{end}", pong(end, passages, self.receiver.batches)))
            self._handle(events.Tick())
        select.select([self.prober.fileno()], [], [], LOOK_S)
        for found in self.prober.results():
            self._handle(events.Heard("agent:a", found))

    def _handle(self, event: events.Event) -> None:
        for instruction in self.cluster.handle(event, time.monotonic()):
            if isinstance(instruction, events.Send) and isinstance(instruction.message, ProbeRequest):
                assert instruction.peer == "agent:a"
                self.prober.probe(instruction.message)


def hello(name: str, probe: str) -> Hello:
    executor = ExecutorInfo(executor=f"{name}/x", pid=1, endpoint=Endpoint(tcp="tcp://127.0.0.1:1"))
    node = NodeInfo(memory_bytes=1 << 30, fingerprint="cpu", device="cpu", host=name, executors=(executor,))
    return Hello(role="agent", name=name, incarnation="i", node=node, probe=Endpoint(tcp=probe, host=name))


def batch(number: int) -> Activation:
    values, now_us = (Tensor("uint8", (1, len(BATCH))),), time.monotonic_ns() // 1000
    return Activation(DATA_VERSION, "g", number, (1,), (1,), 1, (1, 1), PATH, 1, "tcp://x:1", values, sent_us=now_us)


def pong(end: str, passages: tuple[Passage, ...], done: int) -> Pong:
    progress = (Progress(executor=f"{end}/x", items_done=done),)
    return Pong(sequence=1, sent_s=0.0, incarnation="i", progress=progress, passages=passages)


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def test_a_link_that_falls_to_a_quarter_is_noticed_by_traffic_and_measured_anew(world: World) -> None:
    world.limit(FAST)
    world.until("the link is measured", lambda: world.rate(AB) > 0)
    assert FAST / 1.5 < world.rate(AB) < FAST * 1.5
    begun = world.receiver.batches
    world.until("batches pass", lambda: world.receiver.batches > begun + 20)
    assert AB not in world.cluster.measuring.links.noticed

    world.limit(SLOW)
    world.until("it is noticed", lambda: world.rate(AB) < 1.5 * SLOW)
    assert world.rate(AB) > SLOW / 1.5
    assert all(proxy.counts["bandwidth"] for proxy in world.links)
    (profile,) = [row.profile for row in node_rows(world.cluster) if row.node == "a"]
    assert profile is not None
    assert [(one.peer, one.before_bytes_per_s > 1.5 * SLOW) for one in profile.links] == [("agent:b", True)]
