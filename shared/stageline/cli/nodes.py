"""`stageline nodes`: the stage workers, looked at."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from stageline.addresses import split_key
from stageline.cli.completion import complete_gone_node, complete_node
from stageline.cli.jointokens import token
from stageline.cli.nodeduty import cordon, drain, find_node, label, served, state_of, uncordon
from stageline.cli.options import Where, connect, json_option, location_options
from stageline.cli.output import emit_json, emit_table, size
from stageline.messages import Backing, LinkRow, NodeProfile, NodeRow, Progress
from stageline.nodewishes import shown


@click.group()
def nodes() -> None:
    """Look at the stage workers, say what they are for, have new ones join, and forget those that are gone.

    \b
    Example:
      stageline nodes list
      stageline nodes label box-3 zone=attic
      stageline nodes drain box-3
      stageline nodes uncordon box-3
      stageline nodes token
    """


@nodes.command("list")
@location_options
@json_option
def list_nodes(where: Where, as_json: bool) -> None:
    """List the workers, what they offer and what they have done; `show` says more of one.

    \b
    Example:
      stageline nodes list
    """
    with connect(where()) as admin:
        listing = admin.nodes()
    if as_json:
        emit_json([node_json(node) for node in listing.nodes])
        return
    columns = (
        "node", "state", "labels", "device", "memory", "pid", "executors", "stages", "items", "queue", "measured",
        "cpu",
    )  # fmt: skip
    emit_table("", columns, [_node_row(node) for node in listing.nodes], right=("memory", "pid", "items", "queue"))


for command in (token, cordon, drain, uncordon, label):
    nodes.add_command(command)


@nodes.command("show")
@click.argument("name", shell_complete=complete_node)
@location_options
@json_option
def show_node(name: str, where: Where, as_json: bool) -> None:
    """Show all that the cluster knows of a worker: what it is, what it serves, how well it is measured.

    \b
    Example:
      stageline nodes show box-3
    """
    with connect(where()) as admin:
        node, plan = find_node(admin.nodes().nodes, name), admin.plan()
    serves = served(plan, name)
    if as_json:
        emit_json({**node_json(node), "serves": serves})
    else:
        emit_table("", ("node", node.node), [[what, text] for what, text in _details(node, serves) if text])


@nodes.command("remove")
@click.argument("name", shell_complete=complete_gone_node)
@location_options
@json_option
def remove_node(name: str, where: Where, as_json: bool) -> None:
    """Take a worker that is gone off the lists; it is as welcome as any other if it comes back.

    \b
    Example:
      stageline nodes remove box-3
    """
    with connect(where()) as admin:
        admin.remove_node(name)
    if as_json:
        emit_json({"removed": name})
    else:
        click.echo(f"removed {name}")


def _details(node: NodeRow, serves: list[dict[str, Any]]) -> list[tuple[str, str]]:
    profile = node.profile
    links = profile.links if profile is not None else ()
    return [
        ("state", state_of(node)),
        ("labels", shown(node.labels)),
        *(("not reached at", problem) for problem in node.unreached),
        ("device", node.device),
        ("cpu", node.cpu),
        ("memory", size(node.memory_bytes)),
        ("pid", str(node.pid or "")),
        ("incarnation", node.incarnation),
        ("http", node.http),
        *(("executor", f"{e.executor}, pid {e.pid}, at {split_key(e.endpoint.tcp)[0]}") for e in node.executors),
        *(("serves", f"{one['model']} {one['start']}-{one['end']}{' as standby' * one['standby']}") for one in serves),
        *(("done", f"{p.items_done} items in {p.busy_s:.1f} s, {p.queue_depth} wait") for p in node.progress),
        *(("backend", _backing(one)) for p in node.progress for one in p.backends),
        ("measured", _measured(profile)),
        *(("link", _link(one)) for one in links),
    ]


def _link(link: LinkRow) -> str:
    error = f" ± {100 * link.error:.3g} %" if link.bytes_per_s else ""
    text = f"to {link.peer}: {link.bytes_per_s / 1e6:.2f} MB/s{error}, {link.latency_s * 1e3:.2f} ms"
    if not link.before_bytes_per_s:
        return text
    return f"{text} (profiled {link.before_bytes_per_s / 1e6:.2f} MB/s: noticed by traffic)"


def node_json(node: NodeRow) -> dict[str, Any]:
    """A node as JSON."""
    return {
        "node": node.node,
        "state": node.state,
        "duty": node.duty,
        "labels": dict(node.labels),
        "degraded": node.degraded,
        "unreached": list(node.unreached),
        "incarnation": node.incarnation,
        "device": node.device,
        "cpu": node.cpu,
        "memory_bytes": node.memory_bytes,
        "pid": node.pid,
        "http": node.http,
        "executors": [
            {"executor": e.executor, "pid": e.pid, "stages": [str(stage) for stage in e.loaded]} for e in node.executors
        ],
        "progress": [_progress_json(p) for p in node.progress],
        "standbys": [str(stage) for stage in node.standbys],
        "profile": node.profile and _profile_json(node.profile),
    }


def _progress_json(progress: Progress) -> dict[str, Any]:
    backends = [{**msgspec.structs.asdict(one), "stage": str(one.stage)} for one in progress.backends]
    return {**msgspec.structs.asdict(progress), "backends": backends}


def _backing(one: Backing) -> str:
    """What runs a stage, in a line."""
    times = f", {one.seconds * 1e3:.1f} ms where torch takes {one.eager_s * 1e3:.1f}" if one.seconds else ""
    return f"{one.backend} {one.precision} runs {one.stage}{times}{f' ({one.reason})' if one.reason else ''}"


def _profile_json(profile: NodeProfile) -> dict[str, Any]:
    links = [msgspec.structs.asdict(link) for link in profile.links]
    return {**msgspec.structs.asdict(profile), "batches": list(profile.batches), "links": links}


def _measured(profile: NodeProfile | None) -> str:
    """How well a node is known, in a few words."""
    if profile is None:
        return ""
    known = f"{profile.blocks}/{profile.blocks_total} blocks, {len(profile.links)}/{profile.links_total} links"
    return known + (f", {profile.slowdown:.2f} times the profile" if profile.slowdown != 1.0 else "")


def _node_row(node: NodeRow) -> list[str]:
    return [
        node.node,
        state_of(node),
        shown(node.labels),
        node.device,
        size(node.memory_bytes),
        str(node.pid or ""),
        " ".join(f"{e.executor}({e.pid})" for e in node.executors),
        " ".join(f"{s}{' (standby)' * (s in node.standbys)}" for e in node.executors for s in e.loaded),
        str(sum(p.items_done for p in node.progress)),
        str(sum(p.queue_depth for p in node.progress)),
        _measured(node.profile),
        node.cpu,
    ]
