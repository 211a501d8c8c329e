"""A pretend cluster around the pure state machine: agents and gateways that answer at once, and a planner."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from stageline.manifest import BlockSpec, DimRange, ModelManifest, TensorRef, ValueSpec
from stageline.messages import (
    BlockTime,
    ExecutorInfo,
    Farewell,
    Hello,
    LinkTime,
    NodeInfo,
    Prepare,
    Prepared,
    Probed,
    ProbeRequest,
    Profiled,
    ProfileRequest,
    Retire,
    Welcome,
)
from stageline.plan import Endpoint, Plan, StageKey
from stageline.wire import Message
from stageline_coordinator import events
from stageline_coordinator.cluster import Cluster, Memory, Settings
from stageline_coordinator.detector import PeerState
from stageline_coordinator.planner import Problem, solve

MB = 1_000_000


def sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def manifest(name: str = "net", blocks: int = 4, weights: int = 10 * MB, content: str = "") -> ModelManifest:
    """A chain whose blocks weigh `weights` bytes each; `content` makes its tensors differ."""
    value = [ValueSpec(f"v{i}", "float32", ("batch", 100)) for i in range(blocks + 1)]

    def block(i: int) -> BlockSpec:
        elements = weights // 4
        tensor = TensorRef("w", sha(name, content, i), "float32", (elements,), 4 * elements, 4 * elements + 100)
        graph = sha("graph", name, content, i)
        return BlockSpec(f"b{i}", graph, 100, (tensor,), (value[i],), (value[i + 1],), 1000, 1000)

    return ModelManifest(
        name=name,
        inputs=(value[0],),
        outputs=(value[-1],),
        blocks=tuple(block(i) for i in range(blocks)),
        dims={"batch": DimRange(1, 8, 1)},
    )


def probe_of(name: str, host: str = "") -> Endpoint:
    """Where a pretend peer is probed; each is a host of its own unless told otherwise."""
    return Endpoint(tcp="tcp://127.0.0.1:9", host=host or f"host-of-{name}")


def link(megabytes_per_s: float, rtt_s: float = 0.002) -> LinkTime:
    """The same in both directions."""
    rate = megabytes_per_s * MB
    return LinkTime(
        rtt_s=rtt_s, rtt_error=0.1, out_bytes_per_s=rate, out_error=0.05, in_bytes_per_s=rate, in_error=0.05
    )


@dataclass
class FakeAgent:
    """`mute` swallows everything. With `links` it can measure those to the peers named there; others fail."""

    name: str
    incarnation: str = "i1"
    memory: int = 100 * MB
    fingerprint: str = "cpu"
    speed: float = 1.0
    loaded: tuple[StageKey, ...] = ()
    executor: str = ""
    host: str = ""
    links: dict[str, LinkTime] | None = None
    mute: bool = False
    got: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.executor = self.executor or f"{self.name}/{self.incarnation}/x1"

    @property
    def identity(self) -> str:
        return f"agent:{self.name}"

    def info(self) -> ExecutorInfo:
        address = f"tcp://127.0.0.1:{1000 + sum(map(ord, self.executor))}"
        return ExecutorInfo(
            executor=self.executor, pid=1, endpoint=Endpoint(tcp=address), loaded=tuple(sorted(self.loaded))
        )

    def hello(self, with_executor: bool = True) -> Hello:
        node = NodeInfo(
            memory_bytes=self.memory,
            fingerprint=self.fingerprint,
            device="cpu",
            host="h",
            base_bytes=1 * MB,
            executors=(self.info(),) if with_executor else (),
        )
        probe = None if self.links is None else probe_of(self.name, self.host)
        return Hello(role="agent", name=self.name, incarnation=self.incarnation, node=node, probe=probe)

    def answer(self, message: Message, models: dict[str, ModelManifest]) -> Message | None:
        self.got.append(message)
        if self.mute:
            return None
        if isinstance(message, ProfileRequest):
            times = tuple(
                BlockTime(block=b, batch=n, seconds=0.01 * n / self.speed, workspace_bytes=1000 * n, error=0.02, runs=5)
                for b in message.blocks
                for n in message.batches
            )
            return Profiled(manifest=message.manifest, fingerprint=self.fingerprint, times=times)
        if isinstance(message, ProbeRequest):
            link = (self.links or {}).get(message.peer)
            return Probed(peer=message.peer, link=link, error="" if link else "no connection")
        if isinstance(message, Prepare):
            self.loaded = tuple(dict.fromkeys((*self.loaded, *message.stages)))
            executors = tuple(self.executor for _ in message.stages)
            return Prepared(term=message.term, version=message.version, stages=message.stages, executors=executors)
        if isinstance(message, Retire):
            self.loaded = tuple(stage for stage in self.loaded if stage in message.keep)
        return None

    def count(self, kind: type[Any]) -> int:
        return sum(isinstance(message, kind) for message in self.got)


class Fleet:
    """Drives a `Cluster`; every instruction is carried out at once unless `planner_works` is off."""

    def __init__(
        self,
        term: int = 1,
        memory: Memory | None = None,
        now: float = 0.0,
        *,
        max_replicas: int = 1,
        standbys: int = 0,
    ) -> None:
        self.now = now
        settings = Settings(term, "c", "tcp://p", "tcp://b", max_replicas=max_replicas, standbys=standbys)
        self.cluster = Cluster(settings, memory or Memory(), now)
        self.agents: dict[str, FakeAgent] = {}
        self.plans: list[Plan] = []
        self.digests: list[Any] = []
        self.sent: list[tuple[str, Message]] = []
        self.persisted: list[events.Instruction] = []
        self.notes: list[events.Note] = []
        self.watched: set[str] = set()
        self.solves: list[events.Solve] = []
        self.planner_works = True
        self.deliver = True
        self._queue: deque[events.Event] = deque()
        self._busy = False

    @property
    def plan(self) -> Plan:
        return self.cluster.plan

    def model(self, name: str = "net") -> Any:
        found = self.plan.model(name)
        assert found is not None
        return found

    def hosts(self, name: str = "net") -> list[str]:
        return [stage.replicas[0].node for stage in self.model(name).stages]

    def handle(self, event: events.Event) -> None:
        """Handle it and whatever follows from it, in order."""
        self._queue.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._queue:
                for instruction in self.cluster.handle(self._queue.popleft(), self.now):
                    self._do(instruction)
        finally:
            self._busy = False

    def say(self, peer: str, message: Message) -> None:
        self.handle(events.Heard(peer, message))

    def join(self, name: str, **settings: Any) -> FakeAgent:
        agent = self.agents[name] = FakeAgent(name, **settings)
        self.say(agent.identity, agent.hello())
        return agent

    def add(self, model: ModelManifest) -> ModelManifest:
        self.handle(events.ModelAdded(sha(model.digest, model.name), model))
        return model

    def lose(self, name: str, disconnected: bool = False) -> None:
        """Silence until eviction, or a broken connection."""
        self.handle(events.PeerChanged(f"agent:{name}", PeerState.SUSPECT, disconnected))
        if not disconnected:
            self.handle(events.PeerChanged(f"agent:{name}", PeerState.EVICTED))

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        for _ in range(math.ceil(seconds / step)):
            self.now += step
            self.handle(events.Tick())

    def replies(self, peer: str, kind: type[Any]) -> list[Any]:
        return [message for to, message in self.sent if to == peer and isinstance(message, kind)]

    def _do(self, instruction: events.Instruction) -> None:
        if isinstance(instruction, events.Send):
            self.sent.append((instruction.peer, instruction.message))
            self._deliver(instruction)
        elif isinstance(instruction, events.PublishPlan):
            assert isinstance(self.persisted[-1], events.PersistPlan), "published before it was on disk"
            self.plans.append(instruction.plan)
        elif isinstance(instruction, events.PublishDigest):
            self.digests.append(instruction.digest)
        elif isinstance(instruction, events.Watch):
            self.watched.add(instruction.peer)
        elif isinstance(instruction, events.Unwatch):
            self.watched.discard(instruction.peer)
        elif isinstance(instruction, events.Solve):
            self.solves.append(instruction)
            if self.planner_works:
                self.answer_solve()
        elif isinstance(instruction, events.Note):
            self.notes.append(instruction)
        else:
            self.persisted.append(instruction)

    def answer_solve(self) -> None:
        last = self.solves[-1]
        self.handle(events.Solved(last.problem, solve(Problem.from_json(last.document)).to_json()))

    def _deliver(self, send: events.Send) -> None:
        agent = self.agents.get(send.peer.removeprefix("agent:"))
        if agent is None or not self.deliver or isinstance(send.message, (Welcome, Farewell)):
            if agent is not None:
                agent.got.append(send.message)
            return
        models = {name: found for name, (_, found) in self.cluster.models.items()}
        reply = agent.answer(send.message, models)
        if reply is not None:
            self.say(agent.identity, reply)
