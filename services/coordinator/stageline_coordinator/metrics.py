"""What /metrics shows."""

from __future__ import annotations

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from stageline.messages import StandbyRow
from stageline.plan import ModelStatus, NodeState

from .cluster import Cluster

PREFIX = "stageline_coordinator"


class Metrics:
    """The coordinator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._term = Gauge(f"{PREFIX}_term", "Number of the term: starts and takeovers", registry=own)
        self._version = Gauge(f"{PREFIX}_plan_version", "Version of the plan in force", registry=own)
        self._nodes = Gauge(f"{PREFIX}_nodes", "Workers by state", ["state"], registry=own)
        self._gateways = Gauge(f"{PREFIX}_gateways", "Gateways by state", ["state"], registry=own)
        self._models = Gauge(f"{PREFIX}_models", "Models by status", ["status"], registry=own)
        self._guarded = Gauge(
            f"{PREFIX}_stages", "Stages of the plan by whether others can serve them", ["covered"], registry=own
        )
        self.replans = Counter(f"{PREFIX}_replans", "Plans prepared and committed", registry=own)
        self.evictions = Counter(f"{PREFIX}_evictions", "Peers given up", registry=own)
        self.solve_seconds = Histogram(f"{PREFIX}_solve_seconds", "Seconds to compute a placement", registry=own)
        self._slowdown = Gauge(
            f"{PREFIX}_node_slowdown", "Live seconds / profiled seconds that plans reckon with", ["node"], registry=own
        )
        self._degraded = Gauge(f"{PREFIX}_nodes_degraded", "Workers much slower than measured", registry=own)
        self._links = Gauge(f"{PREFIX}_links", "Links (directions) that were measured", registry=own)
        self.drifts = Counter(f"{PREFIX}_drifts", "Nodes and links that left their profile", ["what"], registry=own)
        self.failed_solves = Counter(f"{PREFIX}_failed_solves", "Problems left unanswered", registry=own)

        self._leads = Gauge(f"{PREFIX}_leads", "1 while this coordinator leads, 0 while it stands by", registry=own)
        self._standby = Gauge(f"{PREFIX}_partner_alive", "1 while the other coordinator is heard", registry=own)
        self._behind = Gauge(f"{PREFIX}_partner_behind", "Changes of ours that the other has not got", registry=own)
        self._copied = Gauge(f"{PREFIX}_copied_bytes", "Bytes of blobs copied from the other", registry=own)

    def partner(self, *, leads: bool, row: StandbyRow | None, copied: int, term: int) -> None:
        """Set what is to be said whoever leads."""
        self._term.set(term)
        self._leads.set(leads)
        self._standby.set(row is not None and row.state == "alive")
        self._behind.set(row.behind if row is not None else 0)
        self._copied.set(copied)

    def refresh(self, cluster: Cluster, now: float) -> None:
        """Set the gauges to what is now."""
        plan = cluster.shown(now)
        nodes = [node.state for node in cluster.members.nodes.values()]
        gateways = [gateway.state for gateway in cluster.members.gateways.values()]
        self._version.set(plan.version)
        self._links.set(len(cluster.measuring.links.book.latest))
        self._degraded.set(sum(node.degraded for node in cluster.members.nodes.values() if node.present))
        self._slowdown.clear()
        for name, node in cluster.members.nodes.items():
            self._slowdown.labels(name).set(node.slowdown)
        for state in get_args(NodeState):
            self._nodes.labels(state).set(nodes.count(state))
            self._gateways.labels(state).set(gateways.count(state))
        exposed = [bool(stage.exposed) for model in plan.models for stage in model.stages]
        for covered in (True, False):
            self._guarded.labels(str(covered).lower()).set(exposed.count(not covered))
        for status in get_args(ModelStatus):
            self._models.labels(status).set(sum(model.status == status for model in plan.models))
