"""The fault scenarios, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .closing import SlowlyClosed
from .commits import KilledInCommit
from .damage import BadCache, BadDatabase, LockedDatabase, Starved, Throttled
from .disks import FullCache, FullDisk, FullJournal
from .events import CutOff, Event, Net, Reset, Signal
from .gateways import GatewayCutOff, GatewayLost
from .headless import Headless, Planless
from .jumps import DAY_S, ClockJump
from .leaders import Apart, LeaderLost
from .revenants import Revenant
from .rig import RigKind
from .strangers import Impostor, Namesake, Strangers
from .toxics import (
    Bandwidth,
    Corrupt,
    Drop,
    HalfOpen,
    Hold,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    Timeout,
    Truncate,
)


@dataclass(frozen=True)
class Scenario:
    """A load, an event, and what may and must follow beside what is always promised.

    `refuses`: requests may be refused or expire, each with an error that says why. `repeats`: some must have been
    dispatched again. `undisturbed`: none may have been. `notices`: the coordinator must say that the victim changed.
    `degrades`: while the fault lasts, the coordinator must call the victim degraded and plan less for it to do.
    `localises`: it must name a link of the victim that let nothing through.
    `silent`: a client whose connection broke asks for nothing new, and comes back for what
    it was owed only when the gateway has computed all of that by itself.
    `first` happens `pause_s` earlier; it stays for its seconds, to the run's end where those are 0.
    """

    name: str
    event: Event
    rig: RigKind = "direct"
    width: int = 160
    deadline_s: float = 25.0
    refuses: bool = False
    repeats: bool = False
    undisturbed: bool = False
    notices: bool = False
    silent: bool = False
    localises: bool = False
    degrades: bool = False
    first: Event | None = None
    pause_s: float = 0.0


def _network() -> tuple[Scenario, ...]:
    def on(name: str, event: Event, **more: Any) -> Scenario:
        return Scenario(name, event, "proxied", **more)

    return (
        on("latency between workers", Net("between", Latency(40, 10))),
        on("latency to the coordinator", Net("control", Latency(60, 20))),
        on("20 Mbps between workers", Net("between", Bandwidth(2.5e6), seconds=2.0)),
        on("sliced client stream", Net("client", Slicer(512))),
        on("worker connections reset", Reset("between")),
        on("result connection reset", Reset("result")),
        on("control connection reset", Reset("control")),
        on("client connection reset", Reset("client")),
        on("reset mid-frame to a worker", Net("first", Truncate(1000), seconds=0.3), repeats=True),
        on("reset mid-frame between workers", Net("between", Truncate(1000), seconds=0.3), repeats=True),
        on("reset mid-frame to the gateway", Net("result", Truncate(1000), seconds=0.3), repeats=True),
        on("reset mid-frame to the client", Net("client", Truncate(1000), direction="down", seconds=0.3)),
        on("reset by the first worker", Net("first", ResetPeer(), seconds=0.3), repeats=True),
        on("limited connections to the client", Net("client", LimitData(200_000), direction="down", seconds=0.5)),
        on("half-open between workers", Net("between", HalfOpen(), seconds=1.0), repeats=True, localises=True),
        on("half-open to the coordinator", Net("control", HalfOpen(), seconds=1.0), notices=True),
        on("half-open to the client", Net("client", HalfOpen(), seconds=1.0)),
        on("one-way drop between workers", Net("between", Drop(), seconds=1.5), repeats=True, localises=True),
        on("one-way drop to the gateway", Net("result", Drop(), seconds=1.5), repeats=True, localises=True),
        on("one-way drop to the coordinator", Net("control", Drop(), seconds=1.5), notices=True),
        on("one-way drop from the coordinator", Net("control", Drop(), direction="down", seconds=1.5), notices=True),
        on("timeout between workers", Net("between", Timeout(300), seconds=0.6), repeats=True),
        on("partition between workers", Net("between", Hold(), seconds=3.0), repeats=True, localises=True),
        on("partition from the coordinator", Net("control", Hold(), seconds=2.0), notices=True),
        on("partition from the client", Net("client", Hold(), seconds=1.0)),
        on("worker cut off from all", CutOff(), repeats=True, notices=True),
        on("worker killed, its connections close late", SlowlyClosed(), repeats=True, notices=True),
        on("gateway cut off from the workers", GatewayCutOff("the workers"), repeats=True),
        on("gateway cut off from the coordinator", GatewayCutOff("the coordinator"), undisturbed=True),
        on("gateway cut off from all", GatewayCutOff("all"), repeats=True),
        on("an old incarnation's batches and results", Revenant(), undisturbed=True),
        on("flipped bits to the coordinator", Net("control", Corrupt(0.3), seconds=1.5)),
        on("flipped bits between workers", Net("between", Corrupt(0.2), seconds=1.0), repeats=True),
        on("flipped bits to the gateway", Net("result", Corrupt(0.2), seconds=1.0), repeats=True),
    )


def _processes() -> tuple[Scenario, ...]:
    return (
        Scenario("worker killed", Signal("worker", "kill"), repeats=True, notices=True),
        Scenario("agent killed", Signal("agent", "kill"), notices=True),
        Scenario("executor killed", Signal("executor", "kill"), repeats=True, notices=True),
        Scenario("two workers killed", Signal("two workers", "kill"), repeats=True, notices=True),
        Scenario("two executors killed", Signal("two executors", "kill"), repeats=True, notices=True),
        Scenario("gateway and worker killed", Signal("gateway and worker", "kill"), refuses=True, notices=True),
        Scenario("coordinator and worker killed", Signal("coordinator and worker", "kill"), repeats=True),
        Scenario("coordinator and gateway killed", Signal("coordinator and gateway", "kill"), refuses=True),
        Scenario("worker frozen", Signal("worker", "freeze", 2.0), repeats=True, notices=True),
        Scenario("agent frozen", Signal("agent", "freeze", 2.0), notices=True),
        Scenario("executor frozen", Signal("executor", "freeze", 2.0), repeats=True, notices=True),
        Scenario("worker frozen, then killed", Signal("worker", "freeze then kill", 1.0), repeats=True, notices=True),
        Scenario("two workers frozen", Signal("two workers", "freeze", 1.5), repeats=True, notices=True),
        Scenario("agent frozen, then killed", Signal("agent", "freeze then kill", 1.0), notices=True),
        Scenario(
            "executor frozen, then killed", Signal("executor", "freeze then kill", 0.5), repeats=True, notices=True
        ),
        Scenario("gateway frozen, then killed", Signal("gateway", "freeze then kill", 1.0), refuses=True),
        Scenario("coordinator frozen, then killed", Signal("coordinator", "freeze then kill", 1.0), undisturbed=True),
        Scenario("worker told to stop", Signal("agent", "term"), undisturbed=True, notices=True),
        Scenario("gateway killed", Signal("gateway", "kill", 0.5), refuses=True),
        Scenario("gateway frozen", Signal("gateway", "freeze", 2.0), refuses=True),
        Scenario("gateway told to stop", Signal("gateway", "term", 0.5), refuses=True),
        Scenario("coordinator killed", Signal("coordinator", "kill", 1.0), undisturbed=True),
        Scenario("coordinator frozen", Signal("coordinator", "freeze", 2.0), undisturbed=True),
        Scenario("coordinator told to stop", Signal("coordinator", "term", 1.0), undisturbed=True),
        Scenario("coordinator killed in a commit", KilledInCommit(), repeats=True),
        Scenario(
            "two executors killed after a coordinator's restart", Signal("two executors", "kill"), repeats=True,
            notices=True, first=Signal("coordinator", "kill", 0.5), pause_s=1.0,
        ),
    )  # fmt: skip


def _journaled() -> tuple[Scenario, ...]:
    def on(name: str, event: Event, **more: Any) -> Scenario:
        return Scenario(name, event, "journaled", refuses=True, **more)

    return (
        on("gateway with a journal killed", Signal("gateway", "kill", 0.2)),
        on("gateway with a journal killed, its client is silent", Signal("gateway", "kill", 0.2), silent=True),
        on("gateway with a journal frozen, then killed", Signal("gateway", "freeze then kill", 0.5), silent=True),
        on("gateway with a journal and a worker killed", Signal("gateway and worker", "kill"), silent=True),
        on("journal's disk full", FullJournal()),
    )


def _clocked() -> tuple[Scenario, ...]:
    def on(name: str, event: Event) -> Scenario:
        return Scenario(name, event, "clocked", undisturbed=True)

    return (
        on("a worker's clock an hour ahead and back", ClockJump("worker", 3600.0)),
        on("the gateway's clock an hour ahead and back", ClockJump("gateway", 3600.0)),
        on("the coordinator's clock an hour ahead and back", ClockJump("coordinator", 3600.0)),
        on("all clocks a day back and ahead", ClockJump("everybody", -DAY_S)),
    )


def _no_new_plans() -> tuple[Scenario, ...]:
    return (
        Scenario("worker killed, no planner", Planless("kill"), repeats=True, notices=True),
        Scenario("worker frozen, no planner", Planless("freeze"), repeats=True, notices=True),
        Scenario("coordinator dead, worker killed", Headless("kill"), repeats=True),
        Scenario("coordinator dead, worker frozen", Headless("freeze", 8.0), repeats=True),
    )


def _damage() -> tuple[Scenario, ...]:
    return (
        Scenario("cached tensor flipped", BadCache("flip"), repeats=True),
        Scenario("cached tensor truncated", BadCache("truncate"), repeats=True),
        Scenario("mapped tensor truncated", BadCache("truncate under it"), repeats=True, notices=True),
        Scenario("worker's disk full", FullCache(), repeats=True),
        Scenario("coordinator's disk full", FullDisk(), undisturbed=True),
        Scenario("database locked", LockedDatabase(), undisturbed=True),
        Scenario("database corrupted", BadDatabase(), undisturbed=True),
        Scenario("slow worker", Throttled()),
        Scenario("worker five times slower", Throttled(share=0.2), degrades=True),
        Scenario("executor out of memory", Starved(), repeats=True),
        Scenario("malformed frames on every socket", Strangers(), undisturbed=True),
        Scenario("a second worker of the same name", Namesake(), undisturbed=True),
        Scenario("a second gateway of the same name", Namesake("gateway"), undisturbed=True),
        Scenario("messages of an old incarnation", Impostor(), undisturbed=True),
    )


def _paired() -> tuple[Scenario, ...]:
    def on(name: str, event: Event, **more: Any) -> Scenario:
        return Scenario(name, event, "paired", **more)

    return (
        on("leading coordinator killed, another stands by", LeaderLost("kill"), undisturbed=True),
        on("leading coordinator frozen, another stands by", LeaderLost("freeze", 3.0)),
        on("two coordinators apart", Apart(3.0), undisturbed=True),
        on("two coordinators lead", LeaderLost("freeze", 4.0, apart=True)),
        on("two coordinators lead, one of them anew", LeaderLost("kill", 6.0, apart=True), undisturbed=True),
        *_after_takeover(),
    )


def _after_takeover() -> tuple[Scenario, ...]:
    """The new leader has hardly begun when it has to plan anew."""

    def on(name: str, event: Event, pause_s: float) -> Scenario:
        first = LeaderLost("kill")
        return Scenario(name, event, "paired", repeats=True, notices=True, first=first, pause_s=pause_s)

    return (
        on("two executors killed just after a takeover", Signal("two executors", "kill"), 0.0),
        on("two executors killed 3 s after a takeover", Signal("two executors", "kill"), 3.0),
        on("two workers killed 3 s after a takeover", Signal("two workers", "kill"), 3.0),
    )


def _two_gateways() -> tuple[Scenario, ...]:
    return (Scenario("gateway killed, its clients go to another", GatewayLost(), "two gateways"),)


SCENARIOS = (
    *_processes(),
    *_no_new_plans(),
    *_damage(),
    *_journaled(),
    *_clocked(),
    *_network(),
    *_paired(),
    *_two_gateways(),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
