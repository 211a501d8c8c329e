"""A cluster small enough to be explored whole: one coordinator, one gateway, two workers, a model of two blocks.

The decisions are the real ones: `Cluster`, `Engine`, and an agent's `Loading`. Sockets, processes and time are here.
A connection is a queue, so what one process says to another arrives in order or not at all; activations travel
between many sockets, so they arrive in any order. Each block adds one to each byte.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stageline.data import DATA_VERSION, Activation, Failure
from stageline.manifest import BlockSpec, DimRange, ModelManifest, ValueSpec
from stageline.messages import (
    ExecutorDown,
    ExecutorInfo,
    ExecutorUp,
    Farewell,
    GetPlan,
    Hello,
    Leaving,
    Load,
    NodeInfo,
    PlanReply,
    Pong,
    Prepare,
    Rejoin,
    Retire,
    Unload,
    Welcome,
)
from stageline.nodewishes import NodeWishes
from stageline.plan import Digest, Endpoint, Plan, StageKey
from stageline.protocol import Infer, TensorSpec
from stageline_coordinator import events
from stageline_coordinator.cluster import Cluster, Memory, Settings
from stageline_coordinator.detector import PeerState
from stageline_coordinator.figures import Figure, FigureKey
from stageline_coordinator.planner import Problem, solve
from stageline_gateway import events as ev
from stageline_gateway.core import Identity
from stageline_gateway.engine import Engine
from stageline_gateway.settings import Settings as GatewaySettings
from stageline_stage import loading

BLOCKS, SHA = 2, "ab" * 32
NODES = ("a", "b")
DRAIN_S, STEP_S = 10.0, 11.0
LOST, EVICTED, BACK = "lost", "evicted", "back"
"""What a coordinator's sockets and failure detector say of a connection."""


def _model(name: str, size: int) -> ModelManifest:
    values = [ValueSpec(f"v{i}", "uint8", ("batch", 2)) for i in range(size + 1)]
    graphs = [hashlib.sha256(bytes([i])).hexdigest() for i in range(size)]
    blocks = (BlockSpec(f"b{i}", graphs[i], 9, (), (values[i],), (values[i + 1],), 1, 1) for i in range(size))
    return ModelManifest(name, (values[0],), (values[-1],), tuple(blocks), {"batch": DimRange(1, 8, 1)})


MODEL = _model("m", BLOCKS)
SECOND = ("cd" * 32, _model("n", 1))
FIGURES = {FigureKey(b.graph, "cpu", n): Figure(0.01 * n, 1) for b in MODEL.blocks for n in (1, 2, 4, 8)}


@functools.cache
def _solution(problem: str) -> dict[str, object]:
    return solve(Problem.from_json(json.loads(problem))).to_json()


class ViolationError(AssertionError):
    """Something that must never happen did."""


@dataclass
class Worker:
    """An agent and its executor, whose stages are what it has really loaded."""

    name: str
    starts: int = 1
    executors: int = 1
    up: bool = True
    running: bool = True
    leaving: bool = False
    stages: set[StageKey] = field(default_factory=set)
    loading: loading.Loading = field(default_factory=loading.Loading)

    @property
    def executor(self) -> str:
        return f"{self.name}/{self.executors}"

    @property
    def info(self) -> ExecutorInfo:
        return ExecutorInfo(self.executor, 1, Endpoint(f"tcp://{self.executor}"), tuple(sorted(self.loading.loaded)))

    def hello(self) -> Hello:
        node = NodeInfo(1 << 20, "cpu", "cpu", "h", executors=(self.info,) if self.running else ())
        return Hello("agent", self.name, f"i{self.starts}", node=node)


@dataclass(frozen=True)
class Parcel:
    """On the data plane: to an executor, or to the gateway that it names."""

    to: str
    header: Activation | Failure
    data: bytes = b""


class World:
    """`outcomes` holds for each request what its client was told, in order."""

    def __init__(self, requests: int, standbys: int = 0) -> None:
        self.standbys = standbys
        self.now, self.waits = 0.0, 0
        self.queues: dict[tuple[str, str], deque[Any]] = {}
        self.parcels: list[Parcel] = []
        self.disk: Plan | None = None
        self.known: dict[str, Hello] = {}
        self.models: tuple[tuple[str, ModelManifest], ...] = ((SHA, MODEL),)
        self.wishes: dict[str, NodeWishes] = {}
        self.term, self.published = 0, (0, 0)
        self.start_coordinator()
        self.gateways, self.wake, self.seen = 0, 0.0, ()
        self.start_gateway()
        self.workers = {name: Worker(name) for name in NODES}
        self.unasked = list(range(1, requests + 1))
        self.asked: list[int] = []
        self.outcomes: dict[int, list[ev.Answer | ev.Refuse]] = {}
        self.unloaded_early = 0
        self.calm = True  # no time-out, no restart: then nothing may be unloaded under a gateway
        for worker in self.workers.values():
            worker.loading.executor_up(worker.executor)
            self.say(worker.name, worker.hello())
        self.say("g", self.gateway_hello())

    # --- the coordinator ------------------------------------------------------------------------------------

    def start_coordinator(self, *, waits: bool = False) -> None:
        """A new term, with what is on disk; every connection is new. `waits`: what was sent to it is delivered."""
        self.term += 1
        for ends in list(self.queues):
            if "p" in ends or ends[0] == "c" or (ends[1] == "c" and not waits):
                del self.queues[ends]
        nodes, wishes = tuple(self.known.values()), dict(self.wishes)
        memory = Memory(self.models, FIGURES, self.disk, nodes, node_wishes=wishes)
        settings = Settings(self.term, "c", "p", "b", rejoin_s=1.0, drain_s=DRAIN_S, standbys=self.standbys)
        self.cluster = Cluster(settings, memory, self.now)

    def tell_cluster(self, event: events.Event) -> None:
        """And carry out what it says."""
        for do in self.cluster.handle(event, self.now):
            if isinstance(do, events.Send):
                self.push("c", do.peer.partition(":")[2], do.message)
            elif isinstance(do, events.PersistPlan):
                self.disk = do.plan
            elif isinstance(do, events.PublishPlan):
                self._publish(do.plan)
            elif isinstance(do, events.PublishDigest):
                self.push("c", "g", do.digest)
            elif isinstance(do, events.PersistNode):
                self.known[do.hello.name] = do.hello
            elif isinstance(do, events.Solve):
                self.push("p", "c", events.Solved(do.problem, _solution(json.dumps(do.document))))

    def want(self, wishes: NodeWishes) -> None:
        """An administrator says what worker a is for."""
        self.wishes["a"] = wishes
        self.tell_cluster(events.NodeSet("a", wishes))

    def add(self, model: tuple[str, ModelManifest]) -> None:
        """An administrator adds a model."""
        self.models = (*self.models, model)
        self.tell_cluster(events.ModelAdded(*model))

    def _publish(self, plan: Plan) -> None:
        if plan.epoch <= self.published or self.disk != plan:
            raise ViolationError(f"plan {plan.epoch} was published after {self.published}, or before it was on disk")
        self.published = plan.epoch
        self.push("c", "g", plan)

    def _to_coordinator(self, peer: str, message: Any) -> None:
        identity = f"{'gateway' if peer == 'g' else 'agent'}:{peer}"
        if message == LOST:
            self.tell_cluster(events.PeerChanged(identity, PeerState.SUSPECT, True))
        elif message == EVICTED:
            self.tell_cluster(events.PeerChanged(identity, PeerState.EVICTED))
        elif message == BACK:
            self.tell_cluster(events.PeerChanged(identity, PeerState.ALIVE))
        elif isinstance(message, GetPlan):
            self.push("c", peer, PlanReply(message.id, self.cluster.plan))
        else:
            self.tell_cluster(message if isinstance(message, events.Solved) else events.Heard(identity, message))

    # --- the gateway ----------------------------------------------------------------------------------------

    def start_gateway(self) -> None:
        """A new process: it knows nothing, and nobody's answers are for it."""
        self.gateways += 1
        settings = GatewaySettings(batch_delay_s=0.0, drain_s=DRAIN_S, default_deadline_s=1000.0)
        self.engine = Engine(settings, Identity(f"g/{self.gateways}", Endpoint("tcp://g")))
        self.seen = ()

    def gateway_hello(self) -> Hello:
        return Hello("gateway", "g", f"i{self.gateways}")

    def tell_engine(self, event: ev.Event) -> None:
        """And carry out what it says."""
        before = self.engine.epoch
        for do in self.engine.handle(event, self.now):
            if isinstance(do, ev.Dispatch):
                data = b"".join(map(bytes, do.buffers))
                self.parcels.append(Parcel(do.header.path[0].executor, do.header, data))
            elif isinstance(do, (ev.Answer, ev.Refuse)):
                self._outcome(do)
            elif isinstance(do, ev.WakeAt):
                self.wake = do.time
            elif isinstance(do, ev.FetchPlan):
                self.say("g", GetPlan(1))
        if self.engine.epoch < before:
            raise ViolationError(f"the gateway went from plan {before} back to {self.engine.epoch}")

    def _outcome(self, do: ev.Answer | ev.Refuse) -> None:
        number = do.result.id if isinstance(do, ev.Answer) else do.id
        told = self.outcomes.setdefault(number, [])
        told.append(do)
        if len(told) > 1 or number not in self.asked:
            raise ViolationError(f"request {number} has {len(told)} outcomes")
        if isinstance(do, ev.Answer) and bytes(do.buffers[0]) != bytes([16 * number + BLOCKS] * 2):
            raise ViolationError(f"request {number} was answered with {bytes(do.buffers[0])!r}")

    def _to_gateway(self, message: Any) -> None:
        if isinstance(message, PlanReply):
            message = message.plan
        if isinstance(message, Plan):
            self.tell_engine(ev.PlanApplied(message))
        elif isinstance(message, Digest):
            self.seen = message.nodes
            self.tell_engine(ev.DigestApplied(message))
        elif isinstance(message, Rejoin):
            self.say("g", self.gateway_hello())
        elif isinstance(message, Welcome):
            self.say("g", GetPlan(1))

    def ask(self, number: int) -> None:
        """A client asks, with bytes of its own."""
        if number in self.unasked:
            self.unasked.remove(number)
            self.asked.append(number)
        infer = Infer(number, "m", (TensorSpec("v0", "uint8", (1, 2)),))
        self.tell_engine(ev.RequestArrived(1, infer, [bytes([16 * number] * 2)]))

    # --- workers --------------------------------------------------------------------------------------------

    def _to_worker(self, worker: Worker, message: Any) -> None:
        epoch = worker.loading.epoch
        if isinstance(message, Prepare):
            self._load(worker, worker.loading.prepare(message))
        elif isinstance(message, Retire):
            self._load(worker, worker.loading.retire(message))
        elif isinstance(message, Welcome):
            self._load(worker, worker.loading.welcomed())
            if worker.leaving:
                self.say(worker.name, Leaving(worker.name))
        elif isinstance(message, Rejoin):
            self.say(worker.name, worker.hello())
        elif isinstance(message, Farewell):
            if self.calm and any(self._in_use(worker, stage) for stage in worker.stages):
                raise ViolationError(f"{worker.name} goes while the gateway may still send to it")
            self.stop(worker)
        if worker.loading.epoch < epoch:
            raise ViolationError(f"worker {worker.name} went from {epoch} back to {worker.loading.epoch}")

    def _load(self, worker: Worker, steps: list[loading.Instruction]) -> None:
        for step in steps:
            if isinstance(step, loading.Fetch):
                files = [loading.StageFiles(stage, (), {}) for stage in step.stages]
                self._load(worker, worker.loading.fetched(step.epoch, files))
            elif isinstance(step, loading.ToExecutor):
                self.push(worker.name, f"x{worker.name}", step.message)
            elif isinstance(step, loading.Answer):
                self.say(worker.name, step.message)

    def _to_executor(self, worker: Worker, message: Load | Unload) -> None:
        if isinstance(message, Load):
            worker.stages.add(message.stage)
            self._load(worker, worker.loading.stage_loaded(message.stage))
            return
        worker.stages.discard(message.stage)
        if self._in_use(worker, message.stage):
            self.unloaded_early += 1
            if self.calm:
                raise ViolationError(f"{worker.name} unloaded {message.stage} while the gateway may still send to it")

    def _in_use(self, worker: Worker, stage: StageKey) -> bool:
        """Whether the gateway has a batch under way to the stage there, or would send one."""
        paths = [list(zip(b.model.stages, b.path, strict=True)) for b in self.engine._core.batches.live()]
        models = [batch.model for batch in self.engine._core.batches.live()]
        for model in self.engine.plan.models if self.engine.plan else ():
            paths.append([(one, replica) for one in model.stages for replica in one.replicas])
            models.append(model)
        return any(
            (model.key(one), replica.executor) == (stage, worker.executor)
            for model, path in zip(models, paths, strict=True)
            for one, replica in path
        )

    def stop(self, worker: Worker) -> None:
        """The processes end; the coordinator sees the connection break."""
        worker.up = False
        for ends in [ends for ends in self.queues if worker.name in ends or f"x{worker.name}" in ends]:
            del self.queues[ends]
        self.parcels = [parcel for parcel in self.parcels if parcel.to != worker.executor]
        worker.stages.clear()
        self.say(worker.name, LOST)
        self.say(worker.name, EVICTED)

    def restart(self, worker: Worker) -> None:
        """Another incarnation, with nothing loaded."""
        worker.starts += 1
        worker.executors += 1
        worker.up, worker.running, worker.loading = True, True, loading.Loading()
        worker.loading.executor_up(worker.executor)
        self.say(worker.name, worker.hello())

    def executor_dies(self, worker: Worker, computing: tuple[int, ...]) -> None:
        """The agent sees it; what was on the way there is lost."""
        worker.running = False
        self.queues.pop((worker.name, f"x{worker.name}"), None)
        self.parcels = [parcel for parcel in self.parcels if parcel.to != worker.executor]
        worker.stages.clear()
        worker.loading.executor_down()
        self.say(worker.name, ExecutorDown(worker.executor, -9, "killed", computing))

    def executor_starts(self, worker: Worker) -> None:
        """The agent starts another."""
        worker.executors += 1
        worker.running = True
        instructions = worker.loading.executor_up(worker.executor)
        self.say(worker.name, ExecutorUp(worker.info))
        self._load(worker, instructions)

    def compute(self, parcel: Parcel) -> None:
        """What an executor does with a batch, or the gateway with what comes back."""
        if parcel.to.startswith("g/") or parcel.to == "g":
            self._returned(parcel)
            return
        worker = next((w for w in self.workers.values() if w.up and w.running and w.executor == parcel.to), None)
        header = parcel.header
        if worker is None or isinstance(header, Failure):
            return
        stage = header.path[header.hop].stage
        if stage not in worker.stages:
            text = f"stage {stage} is not loaded here"
            gone = (
                header.gateway,
                header.batch,
                header.attempt,
                "not_loaded",
                text,
                worker.name,
                worker.executor,
                True,
            )
            self.parcels.append(Parcel("g", Failure(DATA_VERSION, *gone)))
            return
        done = msgspec.structs.replace(header, hop=header.hop + 1)
        data = bytes((byte + stage.end - stage.start) % 256 for byte in parcel.data)
        self.parcels.append(Parcel("g" if done.finished else done.path[done.hop].executor, done, data))

    def _returned(self, parcel: Parcel) -> None:
        if isinstance(parcel.header, Failure):
            self.tell_engine(ev.FailureArrived(parcel.header))
        else:
            self.tell_engine(ev.ResultArrived(parcel.header, [parcel.data]))

    # --- the network and time -------------------------------------------------------------------------------

    def push(self, source: str, target: str, message: Any) -> None:
        worker = self.workers.get(target) if hasattr(self, "workers") else None
        if worker is None or worker.up:
            self.queues.setdefault((source, target), deque()).append(message)

    def say(self, peer: str, message: Any) -> None:
        """To the coordinator."""
        self.queues.setdefault((peer, "c"), deque()).append(message)

    def deliver(self, ends: tuple[str, str], *, keep: bool = False) -> None:
        """The next message of a connection arrives; with `keep` it will once more."""
        queue = self.queues[ends]
        message = queue[0] if keep else queue.popleft()
        if not queue:
            del self.queues[ends]
        source, target = ends
        if target == "c":
            self._to_coordinator(source, message)
        elif target == "g":
            self._to_gateway(message)
        elif target in self.workers:
            self._to_worker(self.workers[target], message)
        else:
            self._to_executor(self.workers[target[1:]], message)

    def shared(self) -> tuple[object, ...]:
        """What no step changes, as everything was measured beforehand: copies of a world have it in common."""
        measuring = self.cluster.measuring
        return (measuring, measuring.book, measuring.links)

    def beat(self) -> None:
        """The gateway's pong: what it applied, and the oldest plan that it has something in flight on."""
        epoch, oldest = self.engine.epoch, self.engine.oldest_in_flight
        self.say("g", Pong(1, 0.0, f"i{self.gateways}", epoch=epoch, oldest_in_flight=oldest))

    def wait(self) -> None:
        """Until the engine wants to be woken, or longer than any patience of the coordinator's."""
        self.now = self.wake if self.now < self.wake <= self.now + STEP_S else self.now + STEP_S
        self.waits += 1
        self.calm = self.calm and self.now < DRAIN_S
        self.tell_engine(ev.Tick())
        self.tell_cluster(events.Tick())
