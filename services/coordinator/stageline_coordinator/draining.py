"""Old plans that requests may still be on, and what nodes must keep loaded for them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stageline.plan import Epoch, ModelPlan, StageKey

from .peers import Gateway

Hosts = Mapping[str, frozenset[StageKey]]
"""The stages that each node serves."""


def hosts_of(models: Iterable[ModelPlan]) -> Hosts:
    """Who serves what in these plans, or may have to."""
    found: dict[str, frozenset[StageKey]] = {}
    for model in models:
        for stage in model.stages:
            for replica in (*stage.replicas, *stage.standbys):
                found[replica.node] = found.get(replica.node, frozenset()) | {model.key(stage)}
    return found


def covers(hosts: Hosts, others: Hosts) -> bool:
    """Whether whatever `others` have loaded is loaded there in `hosts`, too."""
    return all(stages <= hosts.get(node, frozenset()) for node, stages in others.items())


@dataclass(frozen=True)
class _Old:
    until: Epoch
    at: float
    hosts: Hosts


class Drain:
    """Superseded plans, each until every gateway has left it or `drain_s` seconds are over."""

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self._old: list[_Old] = []

    @property
    def pending(self) -> bool:
        return bool(self._old)

    def supersede(self, models: Iterable[ModelPlan], until: Epoch, now: float) -> None:
        """From `until` on new requests go elsewhere."""
        hosts = hosts_of(models)
        if hosts:
            self._old.append(_Old(until, now, hosts))

    def settle(self, gateways: Iterable[Gateway], now: float) -> None:
        """Forget the plans that nobody is on any more."""
        here = [gateway for gateway in gateways if gateway.liveness != "gone"]
        self._old = [
            old
            for old in self._old
            if now - old.at < self._drain_s and not all(gateway.has_left(old.until) for gateway in here)
        ]

    def keep(self, node: str) -> frozenset[StageKey]:
        """What the node must keep loaded for them."""
        return frozenset().union(*(old.hosts.get(node, frozenset()) for old in self._old))
