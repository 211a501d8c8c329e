"""Faults of gateways: cut off from the cluster behind them, and one of two that dies."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Literal

from .events import Held, Target, bystander, held
from .model import NAME
from .rig import GATEWAYS, Rig, all_dead

ANSWERED = "stageline_gateway_requests_total"


@dataclass(frozen=True)
class GatewayCutOff(Held):
    """The gateway's links to the workers are held, those to the coordinator, or both; clients still reach it.

    To workers: the one on which its batches leave, which is the first stage's, and the one on which all results come.
    """

    from_whom: Literal["the workers", "the coordinator", "all"]
    seconds: float = 2.0
    kind: str = "gateway cut off"

    def aim(self, rig: Rig) -> Target:
        workers = [rig.proxies["data:gateway"], *(rig.proxies[f"data:{node}"] for node in rig.placed()[:1])]
        links = workers if self.from_whom != "the coordinator" else []
        links = [*links, rig.proxies["control:gateway"]] if self.from_whom != "the workers" else links
        target = Target(f"the gateway's links to {self.from_whom}", more=links)
        target.before = held(target)
        return target


@dataclass(frozen=True)
class GatewayLost:
    """Of two gateways the one that all clients use dies; it is seen that the other answers, and it comes back later."""

    seconds: float = 1.0
    kind: str = "one of two gateways"

    def aim(self, rig: Rig) -> Target:
        service = rig.gateway
        return Target(service.name, "", service.pids(), (service,), before={"answered": _answered(rig)})

    def decoy(self, rig: Rig) -> Target:
        return bystander(rig)

    def strike(self, rig: Rig, target: Target) -> None:
        for pid in target.pids:
            os.kill(pid, signal.SIGKILL)

    def proof(self, rig: Rig, target: Target) -> str:
        if not all_dead(target.pids) or rig.gateway.running:
            return ""
        answered = _answered(rig) - target.before["answered"]
        return f"exit code {rig.gateway.exit_code()}; {GATEWAYS[1]} answered {answered}" if answered > 0 else ""

    def relent(self, rig: Rig, target: Target) -> None:
        if not rig.gateway.running:
            rig.revive(rig.gateway.name)


def _answered(rig: Rig) -> int:
    """Requests that the other gateway has answered."""
    return int(rig.services[GATEWAYS[1]].gauge(ANSWERED, model=NAME, outcome="result"))
