"""Who is here: nodes and gateways, how they live and what they run. Pure; times are seconds, given by the caller."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from stageline.errors import LocalProtocolError
from stageline.messages import DATA, PROBE, ExecutorInfo, Hello, NodeInfo, Progress, Refused, control_identity
from stageline.plan import Crash, Endpoint, Epoch, NodeState, NodeView, StageKey
from stageline.wire import PROTOCOL_MAX, PROTOCOL_MIN

from .loadfailures import LoadFailures, pause_s

Liveness = Literal["alive", "suspect", "gone"]

LEGAL: frozenset[tuple[Liveness, Liveness]] = frozenset(
    {("alive", "suspect"), ("suspect", "alive"), ("alive", "gone"), ("suspect", "gone")}
)
"""Gone is final: who comes back starts a new record by its `Hello`."""

QUIET_S = 2.0
"""A node that has computed nothing for so long has no traffic."""

DEGRADED = 1.5
"""A node that takes so many times as long as it was measured to is called degraded."""

FORGET_S = 600.0
"""How long a node that is gone stays in listings and digests."""

UPKEEP_STEP, MOST_UPKEEP = 0.02, 0.9
"""Changes of a node's speed below this are noise; a node that says it has less left than a tenth is not believed."""


@dataclass(frozen=True)
class Offer:
    """An address, and the channel (by name) that is to be reached there."""

    channel: str
    address: str


@dataclass
class Peer:
    """What a node and a gateway have in common. `address`: the identity of the DEALER that it said hello with.

    `unreached`: what it offers others and the coordinator does not get through to, with the problem.
    """

    hello: Hello
    liveness: Liveness = "alive"
    leaving: bool = False
    disconnected: bool = False
    farewell: bool = False
    gone_at: float = 0.0
    address: str = ""
    unreached: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.hello.name

    @property
    def identity(self) -> str:
        """The end of links that it is, whatever its incarnation."""
        return f"{self.hello.role}:{self.hello.name}"

    def quiet(self, now: float) -> bool:
        """Whether no requests pass through it."""
        raise NotImplementedError

    def data_endpoints(self) -> tuple[Endpoint, ...]:
        """Where it takes activations."""
        raise NotImplementedError

    def offers(self) -> tuple[Offer, ...]:
        """The addresses by which others are to reach it."""
        probe = self.hello.probe
        data = [Offer(DATA.name, endpoint.tcp) for endpoint in self.data_endpoints()]
        return tuple(offer for offer in (*data, *([Offer(PROBE.name, probe.tcp)] if probe else ())) if offer.address)

    @property
    def state(self) -> NodeState:
        """As others see it."""
        return "draining" if self.leaving and self.liveness == "alive" else self.liveness

    def become(self, new: Liveness, now: float) -> None:
        """Raises `LocalProtocolError` for a step that is not in `LEGAL`."""
        if (self.liveness, new) not in LEGAL:
            raise LocalProtocolError(f"{self.identity} cannot go from {self.liveness} to {new}")
        self.liveness = new
        self.gone_at = now if new == "gone" else 0.0


@dataclass
class Gateway(Peer):
    """`epoch` is the plan that it applied last, `oldest` the oldest one it has requests in flight on."""

    epoch: Epoch = (0, 0)
    oldest: Epoch | None = None

    def quiet(self, now: float) -> bool:
        """Whether nothing was in flight by its last pong."""
        return self.oldest is None

    def data_endpoints(self) -> tuple[Endpoint, ...]:
        """Where it takes results."""
        return (self.hello.data,) if self.hello.data is not None else ()

    def has_left(self, until: Epoch) -> bool:
        """Whether nothing of it depends on plans before `until`."""
        return self.epoch >= until and (self.oldest is None or self.oldest >= until)


@dataclass
class Node(Peer):
    """`executors` run now, the newest last; `crash` is the last one's that ended in the middle of a batch.

    `kept` is what the last `Retire` told it to keep, None since a `Prepare`: it may load that and not say so.

    `loading`: it has not answered the last `Prepare` yet.
    `drained`: users want it emptied.
    `failures` in a row leave it out of all plans until `excluded_until`; `load_failures` out of those of one model.
    `slowdown`: its live seconds / its profiled seconds, as plans reckon with it; `drift`: as last seen.
    `upkeep`: the part of its speed that it takes for itself, as plans reckon with it.
    """

    executors: dict[str, ExecutorInfo] = field(default_factory=dict)
    crash: Crash | None = None
    progress: tuple[Progress, ...] = ()
    kept: frozenset[StageKey] | None = frozenset()
    loading: bool = False
    failures: int = 0
    failure: str = ""
    excluded_until: float = 0.0
    load_failures: LoadFailures = field(default_factory=LoadFailures)
    slowdown: float = 1.0
    drift: float = 1.0
    upkeep: float = 0.0
    worked_at: float = -math.inf
    drained: bool = False

    @property
    def state(self) -> NodeState:
        """As others see it."""
        return "draining" if self.drained and self.liveness == "alive" else super().state

    @property
    def info(self) -> NodeInfo:
        """Raises `LocalProtocolError` for a peer that is no worker; `check_hello` refuses those."""
        if self.hello.node is None:
            raise LocalProtocolError(f"{self.name} is not a worker")
        return self.hello.node

    @property
    def executor(self) -> ExecutorInfo | None:
        """The executor that new stages go to."""
        return next(reversed(self.executors.values()), None)

    @property
    def degraded(self) -> bool:
        """Whether live traffic shows it to be much slower than it was measured, and plans reckon with that."""
        return self.slowdown >= DEGRADED

    @property
    def present(self) -> bool:
        """Not known to have been lost: merely silent nodes count until they are evicted."""
        return self.liveness != "gone" and not self.disconnected

    def quiet(self, now: float) -> bool:
        """Whether it has computed nothing lately."""
        return now - self.worked_at >= QUIET_S

    def report(self, progress: tuple[Progress, ...], now: float) -> None:
        """Take in how far its executors are."""
        done = {one.executor: one.items_done for one in self.progress}
        if any(one.queue_depth or one.items_done > done.get(one.executor, 0) for one in progress):
            self.worked_at = now
        self.progress = progress

    def keep_up(self, upkeep: float) -> None:
        """Take in what it says that it takes for itself; small changes make no new plan."""
        if math.isfinite(upkeep) and abs(upkeep - self.upkeep) >= UPKEEP_STEP:
            self.upkeep = min(MOST_UPKEEP, max(0.0, round(upkeep, 2)))

    def usable(self, now: float) -> bool:
        """Whether a plan may rely on it."""
        stays = self.present and not (self.leaving or self.drained)
        return stays and bool(self.executors) and bool(self.info.fingerprint) and now >= self.excluded_until

    def data_endpoints(self) -> tuple[Endpoint, ...]:
        """Of its executors."""
        return tuple(one.endpoint for one in self.executors.values())

    def runs(self, executor: str, stage: StageKey) -> bool:
        """Whether that very executor runs here and has the stage loaded."""
        info = self.executors.get(executor)
        return self.present and info is not None and stage in info.loaded

    def loaded(self) -> frozenset[StageKey]:
        """Every stage that some executor here can serve."""
        return frozenset(stage for info in self.executors.values() for stage in info.loaded)

    def add_loaded(self, executor: str, stages: Iterable[StageKey]) -> None:
        info = self.executors[executor]
        loaded = tuple(dict.fromkeys((*info.loaded, *stages)))
        self.executors[executor] = msgspec.structs.replace(info, loaded=loaded)

    def drop_loaded(self, gone: StageKey) -> None:
        """It says that it cannot load that stage, so it has not."""
        for name, info in self.executors.items():
            if gone in info.loaded:
                loaded = tuple(stage for stage in info.loaded if stage != gone)
                self.executors[name] = msgspec.structs.replace(info, loaded=loaded)

    def prepares(self) -> None:
        """It is told to load something."""
        self.kept, self.loading = None, True

    def keep_loaded(self, keep: frozenset[StageKey]) -> None:
        self.kept, self.loading = keep, False
        for name, info in self.executors.items():
            loaded = tuple(stage for stage in info.loaded if stage in keep)
            self.executors[name] = msgspec.structs.replace(info, loaded=loaded)

    def takes(self, sha: str) -> bool:
        """Whether a plan may give it anything of the model with that manifest, which it did not just fail to load."""
        return sha not in self.load_failures.now

    def exclude(self, now: float, message: str) -> None:
        """Leave it out of plans for a while, longer each time in a row."""
        self.excluded_until = now + pause_s(self.failures)
        self.failures += 1
        self.failure = message

    def view(self) -> NodeView:
        running = tuple(self.executors) if self.present else ()
        incarnation = self.hello.incarnation
        return NodeView(
            node=self.name,
            incarnation=incarnation,
            state=self.state,
            executors=running,
            crash=self.crash,
            degraded=self.degraded,
        )


def speaks_for(peer: Peer, end: str) -> bool:
    """Whether `end` of a link, as headers name it, is of that peer."""
    if isinstance(peer, Node):
        return end in peer.executors
    return end == f"{peer.name}/{peer.hello.incarnation}"


def check_hello(hello: Hello, identity: str, known: Peer | None) -> Refused | None:
    """Why a peer may not join, or None. A namesake that is suspect or gone gives way, one that lives does not."""
    plain = f"{hello.role}:{hello.name}"
    if identity not in (plain, control_identity(hello.role, hello.name, hello.incarnation)):
        text = "the socket's identity must be role:name/incarnation (or role:name), as in the hello"
        return Refused(code="protocol", message=text)
    if hello.protocol_min > PROTOCOL_MAX or hello.protocol_max < PROTOCOL_MIN:
        theirs, ours = f"{hello.protocol_min}-{hello.protocol_max}", f"{PROTOCOL_MIN}-{PROTOCOL_MAX}"
        text = f"{hello.name} speaks protocol {theirs}, this coordinator {ours}: upgrade the older of the two"
        return Refused(code="protocol", message=text)
    if hello.role == "agent" and hello.node is None:
        return Refused(code="protocol", message="a worker's hello must say what it offers")
    if known and known.hello.incarnation != hello.incarnation and known.liveness == "alive":
        kind = "node" if hello.role == "agent" else hello.role
        text = f"duplicate {kind} name {hello.name!r}: one of that name is alive; start this one with another --name"
        return Refused(code="duplicate_name", message=text)
    return None
