"""Faults while nobody makes new plans: gateways have to get by with what the last plan names."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Literal

from stageline.embedded.processes import read_stat

from .events import Signal, Target, victim_node, worker
from .rig import Rig, all_dead, all_stopped, dead, stopped

AWAY_S = 1.5
"""So long there is no coordinator; what has its outcome earlier had it from standbys."""


@dataclass(frozen=True)
class _OnWorker:
    """A worker of the plan is killed or frozen."""

    how: Literal["kill", "freeze"]
    seconds: float = AWAY_S

    def decoy(self, rig: Rig) -> Target:
        return Signal("worker", self.how).decoy(rig)

    def _hit(self, target: Target) -> None:
        for pid in target.pids:
            os.kill(pid, signal.SIGKILL if self.how == "kill" else signal.SIGSTOP)

    def _is_hurt(self, target: Target) -> bool:
        return all_dead(target.pids) if self.how == "kill" else all_stopped(target.pids)


@dataclass(frozen=True)
class Headless(_OnWorker):
    """The coordinator is killed and stays away; then a worker of the plan is killed or frozen."""

    @property
    def kind(self) -> str:
        return "without a coordinator"

    def aim(self, rig: Rig) -> Target:
        target = worker(rig, victim_node(rig))
        return Target(target.name, target.node, target.pids, (*target.services, rig.coordinator))

    def strike(self, rig: Rig, target: Target) -> None:
        for service in target.services[1:]:
            service.signal(signal.SIGKILL)  # it does not live to see the next line
        self._hit(target)

    def proof(self, rig: Rig, target: Target) -> str:
        alone = not rig.coordinator.running
        return f"{target.name} is {self.how}ed, and no coordinator runs" if self._is_hurt(target) and alone else ""

    def relent(self, rig: Rig, target: Target) -> None:
        if not rig.coordinator.running:
            rig.revive("coordinator")
        for pid in target.pids:
            if not dead(pid):
                os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class Planless(_OnWorker):
    """A worker of the plan is killed or frozen while the planner stands still: the coordinator can only say so."""

    @property
    def kind(self) -> str:
        return "without a planner"

    def aim(self, rig: Rig) -> Target:
        target = worker(rig, victim_node(rig))
        planner = [pid for pid in rig.coordinator.pids() if pid != rig.coordinator.pid]
        target.before = {str(pid): pid for pid in planner}
        return target

    def strike(self, rig: Rig, target: Target) -> None:
        for pid in target.before.values():
            os.kill(pid, signal.SIGSTOP)
        self._hit(target)

    def proof(self, rig: Rig, target: Target) -> str:
        still = [pid for pid in target.before.values() if stopped(pid)]
        proven = self._is_hurt(target) and still
        return f"{target.name} is {self.how}ed, and the planner is in state T" if proven else ""

    def relent(self, rig: Rig, target: Target) -> None:
        for pid in (*target.before.values(), *target.pids):
            if (stat := read_stat(pid)) is not None and not stat.dead:
                os.kill(pid, signal.SIGCONT)
