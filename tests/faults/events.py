"""Faults as data: what is hit, how, and how it is seen that it was.

An event aims at a victim, strikes, says what proves that it happened, and relents. A strike on a decoy leaves the
victim unhurt, so its proof must fail then: that is how the suite shows that its checks can.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from .proxy import Proxy
from .rig import Rig, all_dead, dead, stopped
from .service import Service
from .toxics import Direction, Hold, Toxic

Role = Literal[
    "worker", "agent", "executor", "gateway", "coordinator",
    "two workers", "two executors", "gateway and worker", "coordinator and worker", "coordinator and gateway",
]  # fmt: skip


@dataclass
class Target:
    """What is aimed at. `node` is a worker whose requests in flight count, empty for the whole gateway's.

    `seen`: when the fault was noticed, where the proof says that and no broadcast about a worker does.
    """

    name: str
    node: str = ""
    pids: Sequence[int] = ()
    services: Sequence[Service] = ()
    proxy: Proxy | None = None
    more: Sequence[Proxy] = ()
    ports: Sequence[int] = ()
    before: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seen: float | None = None


class Event(Protocol):
    """See the module."""

    @property
    def seconds(self) -> float:
        """How long the fault stays."""

    @property
    def kind(self) -> str:
        """Events of one kind share their control run."""

    def aim(self, rig: Rig) -> Target:
        """The victim in the cluster as it is now."""

    def decoy(self, rig: Rig) -> Target:
        """Something of the same sort beside the cluster."""

    def strike(self, rig: Rig, target: Target) -> None:
        """Do it."""

    def proof(self, rig: Rig, target: Target) -> str:
        """How it is seen that `target` was hit; empty as long as it is not."""

    def relent(self, rig: Rig, target: Target) -> None:
        """End it; what stays dead is started again by `Rig.heal`."""


def victim_node(rig: Rig) -> str:
    """The worker of a stage in the middle, or the last of two."""
    placed = rig.placed()
    return placed[len(placed) // 2]


def whole(rig: Rig, name: str) -> Target:
    """A service that is no worker."""
    service = rig.services[name]
    return Target(name, "", service.pids(), (service,))


def worker(rig: Rig, node: str) -> Target:
    """The whole worker."""
    service = rig.services[node]
    return Target(node, node, service.pids(), (service,))


def executor(rig: Rig, node: str) -> Target:
    """All processes of a worker but its agent."""
    service = rig.services[node]
    return Target(f"executor of {node}", node, [pid for pid in service.pids() if pid != service.pid], (service,))


def joined(first: Target, *others: Target) -> Target:
    """All of these; requests in flight count at the first."""
    parts = (first, *others)
    pids = [pid for part in parts for pid in part.pids]
    services = [service for part in parts for service in part.services]
    return Target(" and ".join(part.name for part in parts), first.node, pids, services)


def bystander(rig: Rig) -> Target:
    """A process that does nothing."""
    child = subprocess.Popen(["sleep", "600"])
    rig.decoys.append(child)
    return Target("a bystander", "nobody", [child.pid])


@dataclass(frozen=True)
class Signal:
    """Processes are killed, frozen, frozen and then killed, or told to stop."""

    who: Role
    how: Literal["kill", "freeze", "freeze then kill", "term"]
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        return self.how

    def aim(self, rig: Rig) -> Target:
        if self.who in ("gateway", "coordinator", "coordinator and gateway"):
            return joined(*(whole(rig, name) for name in self.who.split(" and ")))
        node = victim_node(rig)
        if self.who in ("gateway and worker", "coordinator and worker"):
            return joined(worker(rig, node), whole(rig, self.who.split()[0]))
        if self.who == "agent" or self.how == "term":
            return Target(f"agent of {node}", node, [rig.services[node].pid], (rig.services[node],))
        part = executor if "executor" in self.who else worker
        if not self.who.startswith("two"):
            return part(rig, node)
        other = next(name for name in rig.placed() if name != node)
        return joined(part(rig, node), part(rig, other))

    def decoy(self, rig: Rig) -> Target:
        return bystander(rig)

    def strike(self, rig: Rig, target: Target) -> None:
        first = {"kill": signal.SIGKILL, "term": signal.SIGTERM}.get(self.how, signal.SIGSTOP)
        for pid in target.pids:
            os.kill(pid, first)

    def proof(self, rig: Rig, target: Target) -> str:
        if self.how in ("kill", "term"):
            codes = [service.exit_code() for service in target.services if service.pid in target.pids]
            ended = all_dead(target.pids) and None not in codes
            said = f", exit codes {codes}" if codes else ""
            return f"{len(target.pids)} processes are gone{said}" if ended else ""
        held = any(map(stopped, target.pids)) and all(stopped(pid) or dead(pid) for pid in target.pids)
        return f"{len(target.pids)} processes are in state T" if held else ""

    def relent(self, rig: Rig, target: Target) -> None:
        last = signal.SIGKILL if self.how == "freeze then kill" else signal.SIGCONT
        for pid in target.pids:
            if not dead(pid):
                os.kill(pid, last)
        for name in ("coordinator", "gateway") if self.how != "freeze" else ():
            if name in self.who:
                rig.revive(name)


Link = Literal["first", "between", "result", "control", "client"]


@dataclass(frozen=True)
class Net:
    """A toxic on a link. A `Hold` goes both ways: a partition.

    Links: gateway to the first worker, one worker to the next, the last worker to the gateway, a worker to the
    coordinator, the client to the gateway.
    """

    link: Link
    toxic: Toxic
    seconds: float = 1.0
    direction: Direction = "up"

    @property
    def kind(self) -> str:
        return type(self.toxic).__name__.lower()

    def aim(self, rig: Rig) -> Target:
        while not (placed := rig.placed()):
            time.sleep(0.05)
        node = {"first": placed[0], "between": placed[-1], "control": victim_node(rig)}.get(self.link, "")
        name = {"result": "data:gateway", "client": "client", "control": f"control:{node}"}.get(
            self.link, f"data:{node}"
        )
        return self._on(rig.proxies[name], node)

    def decoy(self, rig: Rig) -> Target:
        return self._on(rig.decoy(), "nobody")

    def _on(self, proxy: Proxy, node: str) -> Target:
        return Target(f"link {proxy.name}", node, proxy=proxy, before=dict(proxy.counts))

    def strike(self, rig: Rig, target: Target) -> None:
        assert target.proxy is not None
        if isinstance(self.toxic, Hold):
            target.proxy.partition()
        else:
            target.proxy.add(self.toxic, self.direction)

    def proof(self, rig: Rig, target: Target) -> str:
        if target.proxy is None:
            return ""
        acted = target.proxy.counts[self.kind] - target.before.get(self.kind, 0)
        return f"{self.kind} acted on {acted} chunks of {target.name}" if acted > 0 else ""

    def relent(self, rig: Rig, target: Target) -> None:
        assert target.proxy is not None
        target.proxy.heal()


@dataclass(frozen=True)
class Reset:
    """All connections of a link are reset at once, wherever in a frame they are."""

    link: Link
    seconds: float = 0.0
    kind: str = "reset"

    def aim(self, rig: Rig) -> Target:
        return Net(self.link, Hold()).aim(rig)

    def decoy(self, rig: Rig) -> Target:
        return Net(self.link, Hold()).decoy(rig)

    def strike(self, rig: Rig, target: Target) -> None:
        assert target.proxy is not None
        target.before["reset"] = target.proxy.reset()
        target.before["accepted"] = target.proxy.counts["accepted"]

    def proof(self, rig: Rig, target: Target) -> str:
        if target.proxy is None:
            return ""
        again = target.proxy.counts["accepted"] - target.before.get("accepted", 0)
        broken = target.before.get("reset", 0)
        return f"{broken} connections of {target.name} were reset, {again} were made anew" if broken and again else ""

    def relent(self, rig: Rig, target: Target) -> None:
        """It is over."""


class Held:
    """Of events that hold what passes some links until it is over; `held` when they aim says what was held before."""

    def decoy(self, rig: Rig) -> Target:
        return Target("a link that nobody uses", "nobody", proxy=rig.decoy())

    def strike(self, rig: Rig, target: Target) -> None:
        for proxy in _all(target):
            proxy.partition()

    def proof(self, rig: Rig, target: Target) -> str:
        since = {name: count - target.before.get(name, 0) for name, count in held(target).items()}
        return f"chunks held: {since}" if since and all(since.values()) else ""

    def relent(self, rig: Rig, target: Target) -> None:
        for proxy in _all(target):
            proxy.heal()


@dataclass(frozen=True)
class CutOff(Held):
    """A worker's cable is pulled: its links to the workers before and behind it, and to the coordinator, are held."""

    seconds: float = 2.0
    kind: str = "cut off"

    def aim(self, rig: Rig) -> Target:
        placed = rig.placed()
        node = victim_node(rig)
        behind = next((name for name in placed[placed.index(node) + 1 :]), "gateway")
        links = [rig.proxies[name] for name in (f"data:{behind}", f"control:{node}")]
        target = Target(f"all links of {node}", node, proxy=rig.proxies[f"data:{node}"], more=links)
        target.before = held(target)
        return target


def _all(target: Target) -> list[Proxy]:
    return [proxy for proxy in (target.proxy, *target.more) if proxy is not None]


def held(target: Target) -> dict[str, int]:
    """Chunks that its links have held so far."""
    return {proxy.name: proxy.counts["hold"] for proxy in _all(target)}
