"""Ends of connections that arrive late."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from .events import Target, bystander, victim_node, worker
from .proxy import Proxy
from .rig import Rig, all_dead
from .toxics import SlowClose


@dataclass(frozen=True)
class SlowlyClosed:
    """A worker is killed, and the network passes the end of its connections on late: nobody is told by them."""

    ms: float = 3000.0
    seconds: float = 1.5
    kind: str = "slowclose"

    def aim(self, rig: Rig) -> Target:
        target = worker(rig, victim_node(rig))
        target.more = [proxy for proxy in rig.proxies.values() if proxy.name not in ("client", "decoy")]
        target.before = {"slowclose": _late(target)}
        return target

    def decoy(self, rig: Rig) -> Target:
        target = bystander(rig)
        target.more = [rig.decoy()]
        return target

    def strike(self, rig: Rig, target: Target) -> None:
        for proxy in target.more:
            proxy.add(SlowClose(self.ms), "up")
            proxy.add(SlowClose(self.ms), "down")
        for pid in target.pids:
            os.kill(pid, signal.SIGKILL)

    def proof(self, rig: Rig, target: Target) -> str:
        late = _late(target) - target.before.get("slowclose", 0)
        proven = all_dead(target.pids) and late
        return f"{len(target.pids)} processes are gone, {late} ends of connections wait" if proven else ""

    def relent(self, rig: Rig, target: Target) -> None:
        for proxy in target.more:
            proxy.heal()


def _late(target: Target) -> int:
    proxies: list[Proxy] = [*target.more]
    return sum(proxy.counts["slowclose"] for proxy in proxies)
