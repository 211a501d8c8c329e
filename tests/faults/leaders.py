"""Faults of two coordinators: the leader dies or freezes, they do not hear each other, both lead."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import Literal

from stageline.errors import ClusterError

from .events import Target, bystander
from .proxy import Proxy
from .rig import COORDINATORS, Rig, dead
from .service import Service
from .watch import Watch


def leads(service: Service) -> bool | None:
    """Whether the coordinator says that it leads; None if it says nothing."""
    try:
        return service.gauge("stageline_coordinator_leads") == 1
    except (OSError, ClusterError):
        return None


def leader(rig: Rig) -> Service:
    """The coordinator that leads. Raises `ClusterError` if none says so."""
    for name in COORDINATORS:
        if leads(rig.services[name]):
            return rig.services[name]
    raise ClusterError("no coordinator leads")


def between(rig: Rig) -> list[Proxy]:
    """The proxies between the two."""
    return [rig.proxies[f"peer:{name}"] for name in COORDINATORS]


@dataclass
class _Leaders:
    """Who led before the strike, and how the other's broadcasts are watched."""

    victim: Service
    heir: Service
    watch: Watch


@dataclass(frozen=True)
class LeaderLost:
    """The leader is killed, or frozen for a while; with `apart` it does not hear of its successor after that.

    Seen to have happened by a broadcast of the other under a higher term. With `apart` the killed one is started anew:
    both must say that they lead. The frozen one wakes, and must say that it leads no more.
    """

    how: Literal["kill", "freeze"]
    seconds: float = 0.0
    apart: bool = False
    _leaders: list[_Leaders] = field(default_factory=list, compare=False, repr=False)

    @property
    def kind(self) -> str:
        if self.apart:
            return "both lead" if self.how == "kill" else "leader woken apart"
        return f"leader {self.how}"

    def aim(self, rig: Rig) -> Target:
        victim = leader(rig)
        return Target(victim.name, "", [victim.pid], (victim,))

    def decoy(self, rig: Rig) -> Target:
        return bystander(rig)

    def strike(self, rig: Rig, target: Target) -> None:
        victim = leader(rig)
        heir = next(rig.services[name] for name in COORDINATORS if name != victim.name)
        self._leaders.append(_Leaders(victim, heir, Watch(str(heir.ready_info["plan"]))))
        if self.apart and target.services:
            for proxy in between(rig):
                proxy.partition()
        for pid in target.pids:
            os.kill(pid, signal.SIGKILL if self.how == "kill" else signal.SIGSTOP)

    def proof(self, rig: Rig, target: Target) -> str:
        leaders = self._leaders[-1]
        if not leaders.watch.seen or not leads(leaders.heir):
            return ""
        target.seen = leaders.watch.seen[0][0]
        said = f"{leaders.heir.name} leads instead of {leaders.victim.name}"
        if self.apart:
            return self._proof_apart(rig, leaders.victim, said)
        if self.how == "kill":
            return f"{said}, which is dead" if dead(leaders.victim.pid) else ""
        return said

    def _proof_apart(self, rig: Rig, victim: Service, said: str) -> str:
        if self.how == "freeze":
            os.kill(victim.pid, signal.SIGCONT)
            return f"{said}, which woke and leads no more" if leads(victim) is False else ""
        if not victim.running:
            rig.revive(victim.name)
        return f"{said}, which was started anew and leads, too" if leads(victim) else ""

    def relent(self, rig: Rig, target: Target) -> None:
        leaders = self._leaders.pop()
        leaders.watch.__exit__()
        for proxy in between(rig):
            proxy.heal()
        if self.how == "kill":
            if target.services and not leaders.victim.running:
                rig.revive(leaders.victim.name)
        elif not dead(leaders.victim.pid):
            os.kill(leaders.victim.pid, signal.SIGCONT)


@dataclass(frozen=True)
class Apart:
    """The two do not hear each other for a while; everybody else hears both."""

    seconds: float = 2.0
    kind: str = "coordinators apart"

    def aim(self, rig: Rig) -> Target:
        return Target("the link between the coordinators", "", before=self._counts(between(rig)), proxy=between(rig)[0])

    def decoy(self, rig: Rig) -> Target:
        return Target("a bystander's link", "nobody", proxy=rig.decoy())

    def strike(self, rig: Rig, target: Target) -> None:
        for proxy in [target.proxy] if target.node else between(rig):
            if proxy is not None:
                proxy.partition()

    def proof(self, rig: Rig, target: Target) -> str:
        held = sum(self._counts(between(rig)).values()) - sum(target.before.values())
        return f"{held} chunks between the coordinators were held" if held > 0 else ""

    def relent(self, rig: Rig, target: Target) -> None:
        for proxy in between(rig):
            proxy.heal()

    @staticmethod
    def _counts(proxies: list[Proxy]) -> dict[str, int]:
        return {proxy.name: proxy.counts["hold"] for proxy in proxies}
