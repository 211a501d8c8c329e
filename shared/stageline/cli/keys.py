"""`stageline keys`: who may take part in a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from stageline.cli.jointokens import seconds_of
from stageline.cli.options import Where, connect, json_option, location_options
from stageline.cli.output import emit_json, note
from stageline.errors import ConfigError
from stageline.keyfiles import ADMIN, COORDINATOR, NODES, add_node, coordinator_token, init_keys, remove_node

DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.group()
def keys() -> None:
    """Make the keys with which services know and trust each other.

    \b
    Example:
      stageline keys init ./keys --node gateway --node box-1
      stageline-coordinator --keys-dir ./keys/coordinator --host 0.0.0.0
      stageline-stage --name box-1 --keys-dir ./keys/nodes/box-1 --coordinator tcp://10.0.0.1:7700 --host 0.0.0.0
      stageline nodes list --keys-dir ./keys/admin --coordinator tcp://10.0.0.1:7700
    """


@keys.command("init")
@click.argument("directory", type=DIRECTORY)
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Also make keys of that worker or gateway.")
@json_option
def init(directory: Path, nodes: tuple[str, ...], as_json: bool) -> None:
    """Make the keys of a coordinator and an administrator; what is there already stays.

    \b
    Example:
      stageline keys init ./keys --node gateway
    """
    made = init_keys(directory)
    for name in nodes:
        made += add_node(directory, name)
    if as_json:
        emit_json({"directory": str(directory), "made": [str(path) for path in made]})
        return
    for path in made:
        click.echo(f"made {path}")
    if not made:
        click.echo(f"all keys are there in {directory}")
    note(f"give each service the directory with its own keys only: {COORDINATOR}, {ADMIN}, {NODES}/NAME")


@keys.command("add")
@click.argument("directory", type=DIRECTORY)
@click.argument("name")
@json_option
def add(directory: Path, name: str, as_json: bool) -> None:
    """Make the keys of one more worker or gateway. A coordinator that runs lets it in within a second.

    \b
    Example:
      stageline keys add ./keys box-2
    """
    made = add_node(directory, name)
    if as_json:
        emit_json({"name": name, "made": [str(path) for path in made]})
    else:
        click.echo(f"made {made[0]}" if made else f"{name} has its keys")


@keys.command("token")
@click.argument("directory", type=DIRECTORY)
@click.option("--expires", default="1d", show_default=True, help="How long it may be used: 30m, 12h, 7d.")
@click.option("--port", type=int, default=7703, show_default=True, help="The coordinator's join port.")
@json_option
def token(directory: Path, expires: str, port: int, as_json: bool) -> None:
    """Print a token with which any number of workers and gateways join, from the coordinator's key alone.

    For where the coordinator does not run yet, as `docker stack deploy`; otherwise `stageline nodes token` makes
    tokens for one use. It cannot be taken back before it expires.

    \b
    Example:
      stageline keys token ./keys --expires 2h | docker secret create stageline-join-token -
    """
    expires_s = seconds_of(expires)
    made = coordinator_token(directory, port, expires_s)
    if as_json:
        emit_json({"token": made, "expires_s": expires_s})
    else:
        click.echo(made)


@keys.command("rotate")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everybody", is_flag=True, help="All workers and gateways that are here, one after the other.")
@click.option("--coordinator-key", "own", is_flag=True, help="The coordinator's own, when the overlap is over.")
@click.option("--overlap", default="10m", show_default=True, help="How long the old key is let in, too: 30s, 10m, 1d.")
@location_options
@json_option
def rotate(names: tuple[str, ...], everybody: bool, own: bool, overlap: str, where: Where, as_json: bool) -> None:
    """Have workers and gateways change their keys while they run and serve; no request is lost.

    Each makes a new pair, which is let in beside the old one before it is shown. The secret half never leaves it. The
    coordinator's own key is announced at once and taken when the overlap is over: who was here meanwhile knows both.

    \b
    Example:
      stageline keys rotate box-2 --overlap 10m
      stageline keys rotate --all
      stageline keys rotate --coordinator-key --overlap 1d
    """
    overlap_s = seconds_of(overlap, "--overlap")
    if [bool(names), everybody, own].count(True) != 1:
        raise ConfigError("name the workers and gateways whose keys are to change, or give --all or --coordinator-key")
    if own:
        _rotate_coordinator(where, overlap_s, overlap, as_json)
        return
    with connect(where()) as admin:
        if everybody:
            listing = admin.nodes()
            here = [row.node for row in listing.nodes if row.state != "gone"]
            names = (*here, *(row.name for row in listing.gateways if row.state != "gone"))
        for name in names:
            admin.rotate_key(name, overlap_s)
            if not as_json:
                click.echo(f"{name} has a new key; the old one is let in for {overlap} more")
    if as_json:
        emit_json({"rotated": list(names), "overlap_s": overlap_s})


def _rotate_coordinator(where: Where, overlap_s: float, overlap: str, as_json: bool) -> None:
    with connect(where()) as admin:
        public = admin.rotate_coordinator(overlap_s)
    if as_json:
        emit_json({"coordinator": public.hex(), "overlap_s": overlap_s})
        return
    click.echo(f"the coordinator has the key {public.hex()} in {overlap}")
    note("who does not connect until then, and other administrators, need it in their coordinator.pub; tokens are void")


@keys.command("revoke")
@click.argument("name")
@location_options
@json_option
def revoke(name: str, where: Where, as_json: bool) -> None:
    """Let a worker or gateway in no more, whichever way it came in. The coordinator drops it within a second.

    \b
    Example:
      stageline keys revoke box-2
    """
    with connect(where()) as admin:
        admin.revoke_key(name)
    if as_json:
        emit_json({"revoked": name})
    else:
        click.echo(f"{name} is let in no more")


@keys.command("remove")
@click.argument("directory", type=DIRECTORY)
@click.argument("name")
@json_option
def remove(directory: Path, name: str, as_json: bool) -> None:
    """Undo `add`: let a worker or gateway in no more. A coordinator that runs drops it within a second.

    \b
    Example:
      stageline keys remove ./keys box-2
    """
    remove_node(directory, name)
    if as_json:
        emit_json({"removed": name})
    else:
        click.echo(f"{name} is let in no more")
