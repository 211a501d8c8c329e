"""What the coordinator lists: models, nodes, gateways. Pure."""

from __future__ import annotations

from stageline.messages import GatewayRow, LinkRow, ModelRow, NodeProfile, NodeRow

from .cluster import Cluster
from .links import present
from .peers import Node


def model_rows(cluster: Cluster, now: float) -> tuple[ModelRow, ...]:
    """All registered models; one that is being profiled says how far it is."""
    rows = []
    fingerprints = {node.info.fingerprint for node in cluster.members.usable(now)}
    for name, (sha, manifest) in cluster.models.items():
        planned = cluster.plan.model(name)
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
            )
        )
    return tuple(rows)


def node_rows(cluster: Cluster) -> tuple[NodeRow, ...]:
    """All workers that are here, or were."""
    rows = []
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
                profile=_profile(cluster, node),
            )
        )
    return tuple(rows)


def _profile(cluster: Cluster, node: Node) -> NodeProfile:
    blocks = cluster.measuring.book.coverage(cluster.models, node.info.fingerprint)
    peers = {peer.identity for peer in present(cluster.members)} - {node.identity}
    links = tuple(
        LinkRow(
            peer=target,
            bytes_per_s=link.bytes_per_s,
            latency_s=link.latency_s,
            error=link.error,
            latency_error=link.latency_error,
        )
        for (source, target), link in sorted(cluster.measuring.links.book.latest.items())
        if source == node.identity and target in peers
    )
    return NodeProfile(
        blocks=blocks.blocks,
        blocks_total=blocks.total,
        block_error=blocks.error,
        batches=blocks.batches,
        links_total=len(peers) if node.hello.probe else 0,
        links=links,
        slowdown=node.slowdown,
        drift=node.drift,
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
        )
        for gateway in gateways
    )
