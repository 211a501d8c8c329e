"""`stageline nodes cordon`, `drain`, `uncordon` and `label`: what workers are for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from stageline.admin import AdminClient
from stageline.cli.completion import complete_node
from stageline.cli.options import Seconds, Where, connect, json_option, location_options
from stageline.cli.output import emit_json, note
from stageline.errors import ClusterError
from stageline.messages import NodeRow
from stageline.nodewishes import Duty, read_labels, shown
from stageline.plan import Plan

LOOK_S = 0.2


@click.command("cordon")
@click.argument("name", shell_complete=complete_node)
@location_options
@json_option
def cordon(name: str, where: Where, as_json: bool) -> None:
    """Have plans give a worker nothing new; what it has loaded stays and is served. `uncordon` takes it back.

    Kept over restarts of the worker and of the coordinator.

    \b
    Example:
      stageline nodes cordon box-3
    """
    with connect(where()) as admin:
        _say(admin, name, "cordoned", as_json, f"{name} is cordoned: it keeps what it has and gets nothing new")


@click.command("uncordon")
@click.argument("name", shell_complete=complete_node)
@location_options
@json_option
def uncordon(name: str, where: Where, as_json: bool) -> None:
    """Have plans use a worker again that was cordoned or drained.

    \b
    Example:
      stageline nodes uncordon box-3
    """
    with connect(where()) as admin:
        _say(admin, name, "open", as_json, f"{name} is open: plans may use it")


@click.command("drain")
@click.argument("name", shell_complete=complete_node)
@click.option("--wait/--no-wait", default=True, help="Wait until nothing is left on it [default: wait].")
@click.option("--timeout", type=Seconds(min=0), default=60.0, show_default=True, help="Seconds to wait at most.")
@location_options
@json_option
def drain(name: str, wait: bool, timeout: float, where: Where, as_json: bool) -> None:
    """Plan without a worker and empty it: others take over first, and no request is lost. `uncordon` takes it back.

    The worker runs on, with nothing loaded, over restarts too; then it may be stopped. What no other worker can serve
    stays on it, and is named.

    \b
    Example:
      stageline nodes drain box-3 && ssh box-3 sudo reboot
    """
    with connect(where()) as admin:
        admin.set_node(name, "drained")
        left = _empty(admin, name, timeout if wait else 0.0)
    if as_json:
        emit_json({"node": name, "duty": "drained", "empty": not left, "left": left})
    elif not left:
        click.echo(f"{name} is drained: nothing is left on it")
    if left and wait:
        raise ClusterError(
            f"{name} is not empty after {timeout:g} s: it serves {'; '.join(left)} until another worker can, which "
            "`stageline plan show` may explain; then it is emptied"
        )
    if left and not as_json:
        note(f"{name} is being drained, it still has {'; '.join(left)}")


@click.command("label")
@click.argument("name", shell_complete=complete_node)
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE | KEY- ...")
@location_options
@json_option
def label(name: str, labels: tuple[str, ...], where: Where, as_json: bool) -> None:
    """Label a worker, or take labels off (KEY-). `models set --forbid` and `--require` may name workers by them.

    \b
    Example:
      stageline nodes label box-3 zone=attic power=solar
      stageline nodes label box-3 power-
      stageline models set resnet50 --forbid zone=attic
    """
    said, gone = read_labels(labels)
    with connect(where()) as admin:
        admin.set_node(name, labels=said, unset=gone)
        rows = admin.nodes().nodes
    left = next((dict(row.labels) for row in rows if row.node == name), said)
    if as_json:
        emit_json({"node": name, "labels": left})
    else:
        click.echo(f"{name}: {shown(left) or 'no labels'}")


def _say(admin: AdminClient, name: str, duty: Duty, as_json: bool, text: str) -> None:
    admin.set_node(name, duty)
    if as_json:
        emit_json({"node": name, "duty": duty})
    else:
        click.echo(text)


def _empty(admin: AdminClient, name: str, timeout_s: float) -> list[str]:
    """What is left on the worker once it is empty, or the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        node = next((row for row in admin.nodes().nodes if row.node == name), None)
        if node is None:
            return []
        loaded = [str(stage) for one in node.executors for stage in one.loaded]
        serves = [f"{one['model']} {one['start']}-{one['end']}" for one in served(admin.plan(), name)]
        left = serves or loaded
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(LOOK_S)


def find_node(rows: Sequence[NodeRow], name: str) -> NodeRow:
    """The worker of that name. Raises `ClusterError` if none is listed."""
    for row in rows:
        if row.node == name:
            return row
    known = ", ".join(row.node for row in rows) or "none"
    raise ClusterError(f"no worker is called {name[:80]!r}; there are: {known}")


def served(plan: Plan, name: str) -> list[dict[str, Any]]:
    """The stages that the plan has on a worker; blocks are half-open [start, end)."""
    return [
        {"model": model.name, "start": stage.start, "end": stage.end, "standby": standby}
        for model in plan.models
        for stage in model.stages
        for standby, replicas in ((False, stage.replicas), (True, stage.standbys))
        if any(replica.node == name for replica in replicas)
    ]


def state_of(node: NodeRow) -> str:
    """Its state in words, with what users want of it."""
    loaded = any(one.loaded for one in node.executors)
    words = ["drained" if node.state == "draining" and node.duty == "drained" and not loaded else node.state]
    if node.duty != "open" and words[0] not in ("drained", "draining"):
        words.append(node.duty)
    return ", ".join(words + ["degraded"] * node.degraded + ["not reached"] * bool(node.unreached))
