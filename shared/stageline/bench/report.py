"""A run as JSON and as table rows. Pure; times in milliseconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stageline.bench.recorder import Distribution, Figures


@dataclass(frozen=True)
class Settings:
    """What was asked for. Closed without `rate_rps`; in an open loop `concurrency` bounds what is under way."""

    model: str
    concurrency: int
    rate_rps: float | None
    arrivals: str
    duration_s: float
    warmup_s: float
    batch: int
    seed: int
    priority: int = 0
    deadline_ms: float | None = None

    @property
    def loop(self) -> str:
        """open or closed."""
        return "closed" if self.rate_rps is None else "open"


def as_json(settings: Settings, figures: Figures) -> dict[str, Any]:
    """All of it."""
    asked = asdict(settings)
    if settings.rate_rps is None:
        del asked["rate_rps"], asked["arrivals"]
    return {
        **asked,
        "loop": settings.loop,
        "requests": figures.requests,
        "answered": figures.answered,
        "failed": figures.failed,
        "unanswered": figures.unanswered,
        "errors": figures.errors,
        "messages": figures.messages,
        "retries": figures.retries,
        "throughput_rps": round(figures.throughput_rps, 3),
        "throughput_items": round(figures.throughput_rps * settings.batch, 3),
        "latency_ms": _milliseconds(figures.latency),
        "send_lag_ms": _milliseconds(figures.lag),
        "mean_shared_batch": round(figures.shared, 3),
    }


def rows(settings: Settings, figures: Figures) -> list[tuple[str, str]]:
    """For people."""
    at_least = "≥ " if figures.unanswered else ""
    latency = _milliseconds(figures.latency)
    counted = [
        ("loop", _loop(settings)),
        ("requests", str(figures.requests)),
        ("answered", str(figures.answered)),
        ("failed", str(figures.failed)),
        ("unanswered", str(figures.unanswered)),
        ("retries", str(figures.retries)),
        *((f"error {code}", f"{number}: {figures.messages[code]}") for code, number in figures.errors.items()),
    ]
    speed = [("requests/s", f"{figures.throughput_rps:.1f}")]
    if settings.batch > 1:
        speed.append(("items/s", f"{figures.throughput_rps * settings.batch:.1f}"))
    speed += [(f"{name} ms", f"{at_least}{latency[name]:.3f}") for name in ("p50", "p90", "p99", "max")]
    if settings.rate_rps is not None:
        speed.append(("sent late by, p99 ms", f"{_milliseconds(figures.lag)['p99']:.3f}"))
    return [*counted, *speed, ("items per batch", f"{figures.shared:.2f}")]


def _loop(settings: Settings) -> str:
    if settings.rate_rps is None:
        return f"closed, {settings.concurrency} callers"
    return f"open, {settings.rate_rps:g}/s {settings.arrivals}, at most {settings.concurrency} under way"


def _milliseconds(values: Distribution) -> dict[str, float]:
    return {name: round(1000 * getattr(values, name), 3) for name in ("mean", "p50", "p90", "p99", "max")}
