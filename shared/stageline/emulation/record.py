"""What is seen of an emulation while it runs. Plain values; times in seconds from the beginning of the measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stageline.emulation.spec import Event
from stageline.emulation.usage import Usage
from stageline.plan import ModelPlan

SLICE_S = 0.5


@dataclass(frozen=True)
class Slice:
    """What ended within `SLICE_S` from `at_s` on (negative: in the warm-up)."""

    at_s: float
    latencies_ms: tuple[float, ...]
    failed: int


@dataclass(frozen=True)
class Placement:
    """The model's plan, and the planner's problem as it stood then (JSON; empty where it could not be stated)."""

    plan: ModelPlan | None = None
    problem: str = ""


@dataclass(frozen=True)
class Phase:
    """The time between two events, half-open [from_s, to_s). `after`: what it began with; `used`: by node that runs, in
    that time (memory: at its end); `placement`: at its end."""

    after: str
    from_s: float
    to_s: float
    used: Mapping[str, Usage]
    placement: Placement


@dataclass
class Record:
    """All that was seen. `before`: as it was profiled, before any traffic; `events`: with the time of their doing."""

    before: Placement = Placement()
    slices: list[Slice] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    events: list[tuple[float, Event]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
