"""What the coordinator lists: models, nodes, gateways. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from stageline.messages import GatewayRow, LinkRow, ModelRow, NodeProfile, NodeRow
from stageline.plan import Plan, StageKey

from .cluster import Cluster
from .links import present
from .peers import Node


def model_rows(cluster: Cluster, now: float) -> tuple[ModelRow, ...]:
    """All registered models; one that is being profiled says how far it is."""
    rows = []
    fingerprints = {node.info.fingerprint for node in cluster.members.usable(now)}
    plan = cluster.shown(now)
    for name, (sha, manifest) in cluster.models.items():
        planned = plan.model(name)
        status, reason = (planned.status, planned.reason) if planned else ("loading", "it was just added")
        if status == "profiling":
            known, total = cluster.measuring.book.progress(manifest, fingerprints)
            reason = f"{known} of {total} blocks measured"
        rows.append(
            ModelRow(
                name=name,
                manifest=sha,
                status=status,
                reason=reason,
                blocks=len(manifest.blocks),
                weight_bytes=manifest.weight_bytes,
                wishes=cluster.wanted.models.get(name),
            )
        )
    return tuple(rows)


def node_rows(cluster: Cluster) -> tuple[NodeRow, ...]:
    """All workers that are here, or were."""
    rows = []
    links = _links(cluster)
    for name in sorted(cluster.members.nodes):
        node = cluster.members.nodes[name]
        hello, info = node.hello, node.info
        rows.append(
            NodeRow(
                node=name,
                state=node.state,
                incarnation=hello.incarnation,
                device=info.device,
                cpu=info.cpu,
                memory_bytes=info.memory_bytes,
                pid=hello.pid,
                executors=tuple(node.executors.values()),
                progress=node.progress,
                http=hello.http,
                standbys=_standbys(cluster.plan, name),
                degraded=node.degraded,
                duty=cluster.wanted.node(name).duty,
                labels=cluster.wanted.node(name).labels,
                unreached=node.unreached,
                profile=_profile(
                    cluster, node, links.get(node.identity, ()), len(links) - 1 if node.identity in links else 0
                ),
            )
        )
    return tuple(rows)


def _standbys(plan: Plan, node: str) -> tuple[StageKey, ...]:
    stages = [(model, stage) for model in plan.models for stage in model.stages]
    return tuple(model.key(stage) for model, stage in stages if any(r.node == node for r in stage.standbys))


def _links(cluster: Cluster) -> dict[str, list[LinkRow]]:
    """Measured links between peers that are here, by the identity of their source."""
    here = {peer.identity for peer in present(cluster.members)}
    found: dict[str, list[LinkRow]] = {identity: [] for identity in sorted(here)}
    for (source, target), link in sorted(cluster.measuring.links.book.latest.items()):
        if source in here and target in here:
            before = cluster.measuring.links.noticed.get((source, target))
            row = LinkRow(
                peer=target,
                bytes_per_s=link.bytes_per_s,
                latency_s=link.latency_s,
                error=link.error,
                latency_error=link.latency_error,
                before_bytes_per_s=before.bytes_per_s if before is not None else 0.0,
            )
            found[source].append(row)
    return found


def _profile(cluster: Cluster, node: Node, links: Sequence[LinkRow], peers: int) -> NodeProfile:
    """`peers`: how many links there are to measure."""
    blocks = cluster.measuring.book.coverage(cluster.models, node.info.fingerprint)
    return NodeProfile(
        blocks=blocks.blocks,
        blocks_total=blocks.total,
        block_error=blocks.error,
        batches=blocks.batches,
        links_total=peers,
        links=tuple(links),
        slowdown=node.slowdown,
        drift=node.drift,
        upkeep=node.upkeep,
        hop_s=node.info.hop_s,
        byte_s=node.info.byte_s,
    )


def gateway_rows(cluster: Cluster) -> tuple[GatewayRow, ...]:
    """All gateways that are here, or were."""
    gateways = (cluster.members.gateways[name] for name in sorted(cluster.members.gateways))
    return tuple(
        GatewayRow(
            name=gateway.name,
            state=gateway.state,
            pid=gateway.hello.pid,
            client_address=gateway.hello.client_address,
            http=gateway.hello.http,
            unreached=gateway.unreached,
        )
        for gateway in gateways
    )
