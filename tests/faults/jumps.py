"""Wall clocks that jump."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from . import clock
from .events import Target, victim_node
from .rig import Rig

DAY_S = 86400.0


@dataclass(frozen=True)
class ClockJump:
    """The wall clock of some processes jumps, and back after `seconds`."""

    who: Literal["worker", "gateway", "coordinator", "everybody"]
    by_s: float
    seconds: float = 1.0
    kind: str = "clock jump"

    def aim(self, rig: Rig) -> Target:
        node = victim_node(rig) if self.who == "worker" else ""
        names = list(rig.services) if self.who == "everybody" else [node or self.who]
        return Target(f"the clock of {', '.join(names)}", node, services=[rig.services[name] for name in names])

    def decoy(self, rig: Rig) -> Target:
        return Target("nobody's clock", "nobody")

    def strike(self, rig: Rig, target: Target) -> None:
        for service in target.services:
            clock.move(rig.clock(service.name), self.by_s)

    def proof(self, rig: Rig, target: Target) -> str:
        offsets: Sequence[float] = [clock.offset(service.http) for service in target.services]
        moved = offsets and all(abs(offset - self.by_s) < 2.0 for offset in offsets)
        return f"their clocks differ from ours by {[round(offset) for offset in offsets]} s" if moved else ""

    def relent(self, rig: Rig, target: Target) -> None:
        for service in target.services:
            clock.move(rig.clock(service.name), 0.0)
