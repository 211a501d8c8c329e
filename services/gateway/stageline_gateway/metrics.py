"""What /metrics shows. Counters are written by the loop; gauges are read from a snapshot that the loop renews."""

from __future__ import annotations

from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from stageline_gateway import events as ev
from stageline_gateway.engine import Engine

_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


_EVENTS = {
    "dispatched": "Batches sent to a first stage",
    "on_standbys": "Batches sent on a path with a standby, as no replica of the plan's own could be used",
    "retried": "Requests that had to be dispatched again",
    "overdue": "Batches that were not back in time",
    "lost": "Batches that were lost on a link",
    "spared": "Batches that nobody waited for any more, and that executors dropped for it",
    "damaged": "Batches whose checksum did not fit, here or at an executor",
    "results_dropped": "Results and failures that nobody waited for",
    "attached": "Requests that joined one in flight with their idempotency key",
    "replayed": "Requests answered from what was kept under their idempotency key",
    "results_refused": "Results that did not fit their request",
}
"""The engine's own counters."""

M = TypeVar("M", Counter, Gauge, Histogram)


class Metrics:
    """Loop thread only; `registry` may be read from any."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._make(Counter, "requests", "Requests by outcome", "model", "outcome")
        self._latency = self._make(Histogram, "latency_seconds", "From arrival to answer", "model", buckets=_SECONDS)
        self._batch = self._make(Histogram, "batch_requests", "Requests per batch", buckets=_BATCHES)
        self._in_flight = self._make(Gauge, "in_flight", "Unanswered requests by state", "state")
        self._bytes = self._make(Gauge, "in_flight_bytes", "Input bytes of unanswered requests")
        self._by_node = self._make(
            Gauge,
            "node_in_flight",
            "Dispatched, unanswered requests whose path leads through the node",
            "model",
            "node",
        )
        self._depth = self._make(Gauge, "queue_depth", "Requests that wait", "model")
        self._away = self._make(Counter, "clients_refused", "Connections that were not let in, or no longer", "code")
        self._limited = self._make(Counter, "limited", "Requests beyond what their token allows", "token")
        self._events = {name: self._make(Counter, name, text) for name, text in _EVENTS.items()}
        self._nodes_seen: set[tuple[str, str]] = set()
        self._seen = dict.fromkeys(self._events, 0)

    def _make(self, kind: type[M], name: str, text: str, *labels: str, **more: Any) -> M:
        return kind(f"stageline_gateway_{name}", text, labels, registry=self.registry, **more)

    def observe(self, instruction: ev.Instruction) -> None:
        """Count what the engine decided."""
        if isinstance(instruction, ev.Answer):
            self._requests.labels(instruction.model, "result").inc()
            self._latency.labels(instruction.model).observe(instruction.seconds)
        elif isinstance(instruction, ev.Refuse):
            self._requests.labels(instruction.model, instruction.error.code).inc()
        elif isinstance(instruction, ev.Dispatch):
            self._batch.observe(len(instruction.header.ids))

    def turned_away(self, code: str) -> None:
        """Count a connection."""
        self._away.labels(code).inc()

    def limited(self, token: str) -> None:
        """Count a request."""
        self._limited.labels(token).inc()

    def snapshot(self, engine: Engine) -> None:
        """Renew the gauges and the engine's own counters."""
        for state, count in engine.in_flight.items():
            self._in_flight.labels(state.value).set(count)
        self._bytes.set(engine.in_flight_bytes)
        by_node = engine.in_flight_by_node
        self._nodes_seen |= by_node.keys()
        for model, node in self._nodes_seen:
            self._by_node.labels(model, node).set(by_node.get((model, node), 0))
        depths = engine.queue_depths
        for name in {*(m.name for m in engine.plan.models), *depths} if engine.plan else depths:
            self._depth.labels(name).set(depths.get(name, 0))
        for name, counter in self._events.items():
            now = getattr(engine.stats, name)
            counter.inc(now - self._seen[name])
            self._seen[name] = now
