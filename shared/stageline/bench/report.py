"""A run as JSON and as table rows. Pure; times in milliseconds, None (in tables a dash) where nothing was timed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stageline.bench.recorder import Distribution, Figures

NONE = "-"


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
        "mean_shared_batch": round(figures.shared, 3) if figures.answered else None,
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
    speed += [(f"{name} ms", _told(latency[name], at_least)) for name in ("p50", "p90", "p99", "max")]
    if settings.rate_rps is not None:
        speed.append(("sent late by, p99 ms", _told(_milliseconds(figures.lag)["p99"])))
    return [*counted, *speed, ("items per batch", f"{figures.shared:.2f}" if figures.answered else NONE)]


def complaint(settings: Settings, figures: Figures) -> str:
    """Why there is nothing to report, if nothing was answered; else empty."""
    if figures.answered:
        return ""
    if not figures.requests:
        return f"no request was due within {settings.duration_s:g} s: raise --duration or --rate"
    said = "; ".join(f"{number} × {figures.messages[code]}" for code, number in figures.errors.items())
    return f"none of {figures.requests} requests was answered: {said or 'no outcome came, see `stageline status`'}"


def _loop(settings: Settings) -> str:
    if settings.rate_rps is None:
        return f"closed, {settings.concurrency} callers"
    return f"open, {settings.rate_rps:g}/s {settings.arrivals}, at most {settings.concurrency} under way"


def _told(milliseconds: float | None, before: str = "") -> str:
    return NONE if milliseconds is None else f"{before}{milliseconds:.3f}"


def _milliseconds(values: Distribution) -> dict[str, float | None]:
    names = ("mean", "p50", "p90", "p99", "max")
    return {name: round(1000 * getattr(values, name), 3) if values.count else None for name in names}
