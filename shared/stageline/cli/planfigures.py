"""What there is to show of a plan: stages, hops, what is busy for how long, what limits it and why.

One description for the terminal, the picture and JSON; `plandescribe` makes it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

PROVEN = 1e-9
"""Relative differences below this are those of rounding."""


@dataclass(frozen=True)
class Host:
    """A node that serves a stage: its part of the requests, and for all that it serves, busy seconds and bytes."""

    node: str
    share: float
    busy_s: float
    held_bytes: int
    memory_bytes: int
    limits: bool
    measured: float | None = None


@dataclass(frozen=True)
class Hop:
    """Into a stage, or out of the last one. `busy_s`: of the busiest link of it; `wire_bytes`: as it is sent."""

    wire_bytes: float
    codec: str
    busy_s: float
    limits: bool


@dataclass(frozen=True)
class Stage:
    """Blocks half-open [start, end). `compute_s`: of one item, the mean over its hosts."""

    start: int
    end: int
    first_block: str
    last_block: str
    weight_bytes: int
    compute_s: float
    hosts: tuple[Host, ...]
    hop_in: Hop
    limits: bool


@dataclass(frozen=True)
class Chain:
    """A model on its stages. `latency_s`: of one item that meets no other, of it `on_way_s` between nodes."""

    name: str
    stages: tuple[Stage, ...]
    hop_out: Hop
    latency_s: float
    on_way_s: float
    rate_per_s: float | None


@dataclass(frozen=True)
class Limit:
    """Something that is busy, by a name for people, and why."""

    name: str
    kind: str
    busy_s: float
    why: str = ""
    indivisible: str = ""


@dataclass(frozen=True)
class Figures:
    """A plan. Seconds are per item of the most requested model; `bound_s` and `gap` None: not known.

    `faults` say why it cannot run: then its seconds are of no use, and there is no gap.
    """

    title: str
    objective: str
    objective_s: float
    bottleneck_s: float
    bound_s: float | None
    gap: float | None
    load_factor: float | None
    chains: tuple[Chain, ...]
    limits: tuple[Limit, ...]
    unused: tuple[str, ...]
    faults: tuple[str, ...]
    algorithm: str = ""

    @property
    def proven(self) -> bool:
        """Whether the plan is known to be the best."""
        return self.gap is not None and self.gap < PROVEN

    @property
    def per_s(self) -> float | None:
        """Requests per second of the most requested model; None where nothing takes time, or the plan cannot run."""
        return 1 / self.bottleneck_s if not self.faults and 0 < self.bottleneck_s < math.inf else None

    def to_json(self) -> dict[str, Any]:
        """For scripts; what is infinite is null."""
        found: dict[str, Any] = _finite(asdict(self))
        return {**found, "requests_per_s": self.per_s}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
