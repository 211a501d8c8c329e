"""`stageline up`, `down` and `logs`: the embedded cluster."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

import click

from stageline.cli.completion import complete_process
from stageline.cli.options import data_dir_option, json_option
from stageline.cli.output import emit_json, emit_table, note, reporting
from stageline.config import CoordinatorConfig, GatewayConfig, StageConfig, default_data_dir, load
from stageline.embedded import Cluster, ClusterSpec, ClusterState, find, running, start, stop
from stageline.embedded.adoption import refresh
from stageline.errors import ConfigError, NoClusterError
from stageline.lifecycle import StopSignals

WATCH_S = 0.5
FOLLOW_S = 0.2
TAIL_BYTES = 64 << 10


@click.command()
@click.option("--nodes", type=int, default=3, show_default=True, help="Number of stage workers.")
@data_dir_option("Where models, caches and logs live [default: $XDG_DATA_HOME/stageline].")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="YAML file with a section per service.")
@click.option("--ready-timeout", type=float, default=120.0, show_default=True, help="Seconds that starting may take.")
@click.option("--detach", is_flag=True, help="Return when all of it is up; stop it with `stageline down`.")
@json_option
def up(
    nodes: int, data_dir: Path | None, config: Path | None, ready_timeout: float, detach: bool, as_json: bool
) -> int:
    """Start a cluster on this machine: coordinator, gateway and stage workers.

    Without --detach it runs until Ctrl-C.

    \b
    Example:
      stageline up --nodes 2 --data-dir ./cluster --detach
    """
    spec = ClusterSpec(
        data_dir=data_dir or default_data_dir(),
        nodes=nodes,
        ready_timeout_s=ready_timeout,
        config=config.absolute() if config else None,
    )
    check_settings(config)
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


def check_settings(config: Path | None) -> None:
    """Raises the `ConfigError` that a service would end with, before anything is started."""
    for kind in (CoordinatorConfig, GatewayConfig, StageConfig):
        load(kind, flags={}, environ=os.environ, file=config)


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
    return next(iter(running()), None) or find(default_data_dir())


@click.command()
@click.argument("name", required=False, shell_complete=complete_process)
@data_dir_option("The cluster of this directory [default: the newest that runs].")
@click.option("--follow", is_flag=True, help="Go on printing what is written, until Ctrl-C.")
def logs(name: str | None, data_dir: Path | None, follow: bool) -> None:
    """Print the ends of the logs of an embedded cluster; NAME is a process, such as gateway or stage-0.

    \b
    Example:
      stageline logs stage-0 --follow
    """
    files = _log_files(data_dir)
    if name is not None:
        if name not in files:
            raise ConfigError(f"no process is called {name}: there are {', '.join(files)}")
        files = {name: files[name]}
    offsets = dict.fromkeys(files, -1)
    while True:
        for process, path in files.items():
            offsets[process] = _print_from(process if len(files) > 1 else "", path, offsets[process])
        if not follow:
            return
        time.sleep(FOLLOW_S)


def _log_files(data_dir: Path | None) -> dict[str, Path]:
    states = running()
    directory = data_dir or (Path(states[0].data_dir) if states else default_data_dir())
    files = {path.stem: path for path in sorted((directory / "logs").glob("*.log"))}
    if not files:
        raise NoClusterError(f"there are no logs in {directory / 'logs'}: name the cluster with --data-dir")
    return files


def _print_from(prefix: str, path: Path, offset: int) -> int:
    """Print whole lines from `offset` (-1: the last of them; all, if the file got shorter); returns where to go on."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        start = max(0, end - TAIL_BYTES) if offset < 0 else offset if offset <= end else 0
        file.seek(start)
        data = file.read(end - start)
    whole, _, rest = data.rpartition(b"\n")
    lines = whole.decode(errors="replace").splitlines()
    for line in lines[1:] if offset < 0 and start > 0 else lines:
        click.echo(f"{prefix}: {line}" if prefix else line)
    return end - len(rest)
