"""Starting those services of an embedded cluster again that have ended, beside those that run.

Each gets the command line, the environment and the ports that it had; a file of settings is read anew.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import get_args

from stageline.config import SECTIONS
from stageline.embedded.adoption import refresh
from stageline.embedded.ended import already_runs, revivable
from stageline.embedded.ports import kept_ports
from stageline.embedded.processes import PROC, signal_group
from stageline.embedded.shutdown import end
from stageline.embedded.spawning import Cluster, Progress, Spawner, starting
from stageline.embedded.state import ClusterState, ProcessRecord, ServiceRole, find
from stageline.errors import ClusterError, NotReadyError

ORDER: tuple[ServiceRole, ...] = ("coordinator", "gateway", "stage")
BY_FLAGS = frozenset({"coordinator", "data_dir", "name", "ready_file", "standby_of"})
"""Settings that each service is told by a flag, so that the environment's say nothing."""

Asked = Mapping[str, str]
"""Flags of `stageline up` by name, as somebody gave them."""


def revive(
    data_dir: Path, asked: Asked, timeout_s: float, progress: Progress, should_stop: Callable[[], bool]
) -> tuple[Cluster, list[str]] | None:
    """Start what has ended of the cluster that runs on `data_dir`, and wait until it has registered.

    Returns the cluster, whose children are those started now alone, with their names; None if no cluster runs there.
    Raises `ClusterError` if nothing has ended, or if only all of it can be started again, `NotReadyError` and
    `CancelledError` as `start` does: what was started is then stopped, and what ran before runs on.
    """
    data_dir = data_dir.absolute()
    if find(data_dir) is None:
        return None
    with starting(data_dir):
        state = find(data_dir)
        if state is None:
            return None
        now = refresh(state)
        if not now.dead or not revivable(now):
            raise ClusterError(_with(already_runs(now), not_applied(now, asked)))
        reviver = _Reviver(state, timeout_s, should_stop)
        try:
            return reviver.run(now.dead, progress), [process.name for process in now.dead]
        except BaseException:
            reviver.give_up()
            raise
        finally:
            reviver.release()


def _with(said: str, lost: list[str]) -> str:
    return f"{said}; not applied: {', '.join(lost)}" if lost else said


class _Reviver(Spawner):
    def run(self, dead: Iterable[ProcessRecord], progress: Progress) -> Cluster:
        state = self.cluster.state
        environ = old_environ(state) or os.environ
        pids: dict[str, int] = {}
        for role in ORDER:
            again = [process for process in dead if process.role == role]
            for process in again:
                progress(f"starting {process.name} again")
                signal_group(process.pid, process.started, signal.SIGKILL)  # its children may not have noticed yet
                self._execute(process.name, role, self._command(process), environ)
            for process in again:
                self._wait_for(process)
                pids |= {process.name: self._children[process.name].pid} if role != "coordinator" else {}
        progress("waiting until all have registered")
        coordinators = [process for process in state.processes if process.role == "coordinator"]
        standby = len(coordinators) > 1 and any(process in coordinators for process in dead)
        self._wait_registered(state.coordinator, pids, standby=standby)
        self._up(state.coordinator)
        return self.cluster

    def give_up(self) -> None:
        """Stop what was started."""
        end([p for p in self.cluster.state.processes if p.name in self._children], self.cluster.exited)
        for child in self._children.values():
            child.wait()

    def _command(self, process: ProcessRecord) -> list[str]:
        """As it was, with the port that it had in the place of each that was anyone's choice."""
        command = list(process.command)
        kept = kept_ports(self._dir).get(process.name, {})
        for setting, port in self._ports(process.name, kept).items():
            command[command.index(f"--{setting.replace('_', '-')}") + 1] = str(port)
        return command

    def _wait_for(self, process: ProcessRecord) -> None:
        address = self._wait_ready(process.name)
        if process.role == "coordinator" and address != process.address:
            raise NotReadyError(
                f"{process.name} cannot come back where the others look for it, {process.address} is taken: free it, "
                f"or `stageline down --data-dir {self._dir}` and `up`"
            )


def old_environ(state: ClusterState) -> dict[str, str]:
    """The environment that the services which still run were started with; empty if it cannot be told."""
    for process in state.processes:
        if process.running and process.command:
            try:
                entries = (PROC / str(process.pid) / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            pairs = (os.fsdecode(entry).partition("=") for entry in entries if b"=" in entry)
            return {name: value for name, _, value in pairs}
    return {}


def not_applied(state: ClusterState, asked: Asked, environ: Mapping[str, str] = os.environ) -> list[str]:
    """What was asked for that differs from how the cluster runs: flags with both values, variables by name alone."""
    running = {
        "--nodes": str(sum(process.role == "stage" for process in state.processes)),
        "--coordinators": str(sum(process.role == "coordinator" for process in state.processes)),
        "--keys": state.keys,
        "--config": _config_of(state),
    }
    flags = [
        f"{flag} {value} (it runs {f'with {running[flag]}' if running[flag] else 'without'})"
        for flag, value in asked.items()
        if running[flag] != value
    ]
    old = old_environ(state)
    return flags + [name for name in _variables() if old and environ.get(name, "") != old.get(name, "")]


def _config_of(state: ClusterState) -> str:
    for process in state.processes:
        if "--config" in process.command:
            return process.command[process.command.index("--config") + 1]
    return ""


def _variables() -> list[str]:
    settings = {field.name for role in get_args(ServiceRole) for field in fields(SECTIONS[role])}
    return [f"STAGELINE_{name.upper()}" for name in sorted(settings - BY_FLAGS)]
