"""What is emulated: boxes, the model that they serve, the load, and what happens to them when. Plain values.

Times are in seconds from the beginning of the measurement, rates in Mbit/s (10^6), memory in MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

LOSE, RESTORE, FREEZE, THAW, LINK = "lose", "restore", "freeze", "thaw", "link"
GATEWAY = "gateway"
EventKind = Literal["lose", "restore", "freeze", "thaw", "link"]


@dataclass(frozen=True)
class Link:
    """What a box may send (`up_mbps`) and receive (`down_mbps`), 0: not limited; tensors reach it `delay_ms` late."""

    up_mbps: float = 0.0
    down_mbps: float = 0.0
    delay_ms: float = 0.0

    @property
    def limited(self) -> bool:
        """Whether either way is."""
        return bool(self.up_mbps or self.down_mbps)


@dataclass(frozen=True)
class Box:
    """One node. `memory_mib`: all that its container may take, the runtime's own 250 or so included; 0: not limited."""

    name: str
    cpus: float
    memory_mib: int = 0
    link: Link = Link()


@dataclass(frozen=True)
class Subject:
    """The model: a source as `stageline models add` takes it."""

    source: str
    name: str
    random_weights: int | None = None


@dataclass(frozen=True)
class Workload:
    """Requests: closed loop of `concurrency` callers, or open at `rate_rps` with at most so many under way."""

    concurrency: int = 8
    rate_rps: float | None = None
    warmup_s: float = 10.0
    duration_s: float = 30.0
    batch: int = 1
    seed: int = 0

    @property
    def end_s(self) -> float:
        """When nothing new is sent any more, from the beginning of the warm-up."""
        return self.warmup_s + self.duration_s


@dataclass(frozen=True)
class Event:
    """Something that happens to a box. lose: killed, restore: started again, freeze and thaw: stopped and continued,
    link: its rates become those of `link`."""

    at_s: float
    kind: EventKind
    node: str
    link: Link = Link()

    def __str__(self) -> str:
        if self.kind != LINK:
            return f"{self.kind} {self.node}"
        up, down = (f"{rate:g}" if rate else "unlimited" for rate in (self.link.up_mbps, self.link.down_mbps))
        return f"link of {self.node}: up {up}, down {down} Mbit/s"


@dataclass(frozen=True)
class Emulation:
    """All of it. `settings`: of services beyond the usual, by section as in a configuration file."""

    name: str
    boxes: tuple[Box, ...]
    subject: Subject
    gateway: Link = Link()
    workload: Workload = Workload()
    events: tuple[Event, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def cpus(self) -> float:
        """Of all boxes together."""
        return sum(box.cpus for box in self.boxes)

    @property
    def delays_ms(self) -> dict[str, float]:
        """Of whoever is reached late, by name."""
        links = {GATEWAY: self.gateway, **{box.name: box.link for box in self.boxes}}
        return {name: link.delay_ms for name, link in links.items() if link.delay_ms}

    @property
    def limits_links(self) -> bool:
        """Whether any rate is limited at any time."""
        links = [self.gateway, *(box.link for box in self.boxes), *(event.link for event in self.events)]
        return any(link.limited for link in links)
