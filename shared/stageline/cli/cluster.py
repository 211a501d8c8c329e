"""`stageline up` and `down`: the embedded cluster."""

from __future__ import annotations

import select
from pathlib import Path

import click

from stageline.cli.options import chosen_data_dir, data_dir_option, json_option
from stageline.cli.output import emit_json, emit_table, note, reporting
from stageline.embedded import Cluster, ClusterSpec, ClusterState, find, running, start, stop
from stageline.embedded.adoption import refresh
from stageline.embedded.settings import given_settings
from stageline.lifecycle import StopSignals

WATCH_S = 0.5


@click.command()
@click.option("--nodes", type=int, default=3, show_default=True, help="Number of stage workers.")
@click.option("--coordinators", type=int, default=1, show_default=True, help="2: one more that stands by.")
@data_dir_option("Where models, caches and logs live [default: $XDG_DATA_HOME/stageline].")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="YAML file with a section per service.")
@click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    help="Encrypt what services say to each other, with the keys there; those that are missing are made.",
)
@click.option("--ready-timeout", type=float, default=120.0, show_default=True, help="Seconds that starting may take.")
@click.option("--detach", is_flag=True, help="Return when all of it is up; stop it with `stageline down`.")
@json_option
def up(
    nodes: int,
    coordinators: int,
    data_dir: Path | None,
    config: Path | None,
    keys: Path | None,
    ready_timeout: float,
    detach: bool,
    as_json: bool,
) -> int:
    """Start a cluster on this machine: coordinator, gateway and stage workers.

    Without --detach it runs until Ctrl-C. Ports are free ones unless the environment or the file names them;
    worker N adds N to those of section stage.

    \b
    Example:
      stageline up --nodes 2 --data-dir ./cluster --detach
      stageline up --config cluster.yaml
    """
    found = given_settings(config, nodes)  # the error that a service would end with, before anything is started
    spec = ClusterSpec(
        data_dir=data_dir or found["coordinator"].get("data_dir") or chosen_data_dir(None),
        nodes=nodes,
        coordinators=coordinators,
        ready_timeout_s=ready_timeout,
        config=config,
        keys=keys,
    )
    with StopSignals() as stopping:
        with reporting("starting", quiet=as_json) as report:
            cluster = start(spec, lambda text: report(text, 0.0), should_stop=lambda: stopping.requested)
        if detach:
            _announce(cluster.state, as_json)
            return 0
        with cluster:
            _announce(cluster.state, as_json)
            code = _watch(cluster, stopping)
            cluster.state = refresh(cluster.state)
            return code


def _announce(state: ClusterState, as_json: bool) -> None:
    if as_json:
        emit_json(describe(state))
        return
    rows = [(p.name, p.pid, p.address, p.http) for p in state.processes]
    emit_table("", ("process", "pid", "address", "http"), rows, right=("pid",))
    note(f"logs are in {Path(state.data_dir) / 'logs'}; next: `stageline models add`, `stageline status`")


def describe(state: ClusterState) -> dict[str, object]:
    """The cluster as JSON."""
    return {
        "cluster": state.id,
        "data_dir": state.data_dir,
        "coordinator": state.coordinator,
        "gateway": state.gateway,
        "processes": [
            {"name": p.name, "role": p.role, "pid": p.pid, "address": p.address, "http": p.http, "log": p.log}
            for p in state.processes
        ],
    }


def _watch(cluster: Cluster, stopping: StopSignals) -> int:
    """Until a signal asks to stop, or nothing runs any more; says once when a process has ended."""
    known: dict[str, int] = {}
    while not stopping.requested:
        select.select([stopping], [], [], WATCH_S)
        stopping.drain()
        exited = cluster.exited()
        for name in exited.keys() - known.keys():
            note(f"stageline: {name} has ended with code {exited[name]}: see `stageline logs {name}`")
        known = exited
        if len(exited) == len(cluster.state.processes):
            return 1
    note("stopping")
    return 0


@click.command()
@data_dir_option("Stop the cluster of this directory [default: the newest that runs].")
@json_option
def down(data_dir: Path | None, as_json: bool) -> None:
    """Stop a cluster that `stageline up` started. Nothing to stop is no error.

    \b
    Example:
      stageline down --data-dir ./cluster
    """
    state = _to_stop(data_dir)
    if state is None:
        emit_json({"stopped": None}) if as_json else click.echo("no cluster was running")
        return
    with reporting(f"stopping the cluster on {state.data_dir}", quiet=as_json):
        state = refresh(state)
        killed = stop(state)
    others = [other.data_dir for other in running()]
    if as_json:
        pids = [p.pid for p in state.processes]
        emit_json({"stopped": {"data_dir": state.data_dir, "pids": pids, "killed": killed}, "others": others})
        return
    forced = f" ({', '.join(killed)} did not stop in time and had to be killed)" if killed else ""
    click.echo(f"stopped the cluster on {state.data_dir}{forced}")
    for other in others:
        note(f"another cluster still runs on {other}")


def _to_stop(data_dir: Path | None) -> ClusterState | None:
    if data_dir is not None:
        return find(data_dir.absolute())
    return next(iter(running()), None) or find(chosen_data_dir(None).absolute())
