"""What a worker shows on its HTTP port. Read by the server's threads, so values are replaced whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from stageline.messages import Progress


@dataclass(frozen=True)
class Status:
    """A snapshot."""

    joined: bool = False
    executor_up: bool = False
    leaving: bool = False
    progress: Progress | None = None
    restarts: int = 0
    stages: int = 0
    bytes_fetched: int = 0
    cache_bytes: int = 0
    backends: Mapping[str, int] = field(default_factory=dict)
    fallbacks: int = 0

    @property
    def items_done(self) -> int:
        """By the present executor."""
        return self.progress.items_done if self.progress else 0

    @property
    def busy_s(self) -> float:
        """Of the present executor."""
        return self.progress.busy_s if self.progress else 0.0

    @property
    def queue_depth(self) -> int:
        """Of the present executor."""
        return self.progress.queue_depth if self.progress else 0

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether the worker can serve now."""
        detail = {"joined": self.joined, "executor": self.executor_up, "leaving": self.leaving, "stages": self.stages}
        return self.joined and self.executor_up and not self.leaving, detail


COUNTERS = {
    "items_done": ("stageline_stage_items", "requests computed by the present executor"),
    "busy_s": ("stageline_stage_busy_seconds", "seconds that the present executor computed"),
    "restarts": ("stageline_stage_executor_restarts", "executors that ended"),
    "bytes_fetched": ("stageline_stage_fetched_bytes", "bytes downloaded into the cache"),
    "fallbacks": ("stageline_stage_backend_fallbacks", "stages that a compiling backend could not serve, or no longer"),
}
GAUGES = {
    "queue_depth": ("stageline_stage_queue_depth", "batches that wait"),
    "stages": ("stageline_stage_stages", "stages loaded"),
    "cache_bytes": ("stageline_stage_cache_bytes", "bytes in the cache"),
    "joined": ("stageline_stage_joined", "1 while the coordinator knows this worker"),
    "executor_up": ("stageline_stage_executor_up", "1 while an executor is ready"),
}


class _Collector:
    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for attribute, (name, text) in COUNTERS.items():
            yield CounterMetricFamily(name, text, value=getattr(status, attribute))
        for attribute, (name, text) in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=float(getattr(status, attribute)))
        served = GaugeMetricFamily("stageline_stage_backend_stages", "stages by what runs them", labels=["backend"])
        for backend, count in sorted(status.backends.items()):
            served.add_metric([backend], count)
        yield served


def registry(status: Callable[[], Status]) -> CollectorRegistry:
    """The metrics of a worker."""
    metrics = CollectorRegistry()
    metrics.register(_Collector(status))
    return metrics
