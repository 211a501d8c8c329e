"""From what was asked for to when to send. Pure."""

from __future__ import annotations

from stageline.bench.report import Settings
from stageline.bench.schedule import ClosedLoop, OpenLoop, Pacer, Window, constant, poisson


def pacer(settings: Settings, window: Window) -> Pacer:
    """When to send."""
    if settings.rate_rps is None:
        return ClosedLoop(settings.concurrency, window.end_s)
    rate = settings.rate_rps
    times = constant(rate) if settings.arrivals == "constant" else poisson(rate, settings.seed)
    return OpenLoop(times, settings.concurrency, window.end_s)
