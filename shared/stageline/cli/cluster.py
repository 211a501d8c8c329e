"""`stageline up` and `down`: the embedded cluster."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from stageline.cli.options import chosen_data_dir, data_dir_option, json_option
from stageline.cli.output import emit_json, emit_table, note, reporting
from stageline.config import config_file
from stageline.embedded import Cluster, ClusterSpec, ClusterState, find, running, start, stop
from stageline.embedded.adoption import refresh
from stageline.embedded.revival import not_applied, revive
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
@click.pass_context
def up(
    context: click.Context,
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
    worker N adds N to those of section stage; a cluster on the same directory has those of the last one again.
    On the directory of a cluster that runs, what has ended of it is started again, as it was.

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
    return _run(spec, _asked(context, spec), detach, as_json)


def _run(spec: ClusterSpec, asked: Mapping[str, str], detach: bool, as_json: bool) -> int:
    """Start the cluster, or what has ended of one that runs; without `detach` stay with one that was started."""
    with StopSignals() as stopping:
        with reporting("starting", quiet=as_json) as report:

            def progress(text: str) -> None:
                report(text, 0.0)

            revived = revive(spec.data_dir, asked, spec.ready_timeout_s, progress, lambda: stopping.requested)
            if revived is None:
                cluster = start(spec, progress, should_stop=lambda: stopping.requested)
        if revived is not None:
            _announce(revived[0], as_json, revived[1], not_applied(revived[0].state, asked))
            return 0
        if detach:
            _announce(cluster, as_json)
            return 0
        with cluster:
            _announce(cluster, as_json)
            code = _watch(cluster, stopping)
            cluster.state = refresh(_written(cluster.state))
            return code


def _asked(context: click.Context, spec: ClusterSpec) -> dict[str, str]:
    """The flags that somebody gave, and the file of settings, as services are told it."""
    config = config_file(os.environ, spec.config)
    values = {
        "nodes": str(spec.nodes),
        "coordinators": str(spec.coordinators),
        "keys": str(spec.keys.absolute()) if spec.keys is not None else "",
    }
    given = {
        f"--{name}": value
        for name, value in values.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    return {**given, "--config": str(config.absolute())} if config is not None else given


def _written(state: ClusterState) -> ClusterState:
    """What is written down of that cluster now: another command may have started some of it again."""
    found = find(Path(state.data_dir))
    return found if found is not None and found.id == state.id else state


def _announce(cluster: Cluster, as_json: bool, restarted: Sequence[str] = (), lost: Sequence[str] = ()) -> None:
    state = cluster.state
    if as_json:
        emit_json({**describe(state), "restarted": restarted, "moved": cluster.moved, "not_applied": lost})
        return
    if restarted:
        note(f"started again as before: {', '.join(restarted)}")
    for moved in cluster.moved:
        note(moved)
    if lost:
        note(f"not applied to the cluster that runs: {', '.join(lost)}; `stageline down` first applies them")
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
        if len(exited) == len(cluster.state.processes) and not _written(cluster.state).alive:
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
