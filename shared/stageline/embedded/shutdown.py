"""Stopping an embedded cluster, gently at first: gateway, then workers, then coordinator; nothing is left behind."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stageline.embedded.processes import group_members, signal_group, signal_process
from stageline.embedded.state import ClusterState, ProcessRecord, ServiceRole, forget

ORDER: tuple[ServiceRole, ...] = ("gateway", "stage", "coordinator")
GRACE_S: dict[ServiceRole, float] = {"gateway": 12.0, "stage": 17.0, "coordinator": 10.0}
"""Seconds from SIGTERM to SIGKILL; more than the services' own drain times."""

ORPHANS_S = 1.0
"""Seconds that a process's children may outlive it."""

KILL_S = 10.0
POLL_S = 0.02


def stop(state: ClusterState, *, reap: Callable[[], object] = lambda: None) -> list[str]:
    """Stop every process of the cluster and remove its run files; returns the names that had to be killed.

    `reap` collects ended children when the caller is their parent. Harmless when nothing runs any more.
    """
    killed = end(state.processes, reap)
    forget(state)
    shutil.rmtree(Path(state.data_dir) / "run", ignore_errors=True)
    return killed


def end(processes: Sequence[ProcessRecord], reap: Callable[[], object] = lambda: None) -> list[str]:
    """Stop these processes alone; returns the names of those that had to be killed."""
    return [name for role in ORDER for name in _stop_role([p for p in processes if p.role == role], role, reap)]


def _stop_role(processes: Sequence[ProcessRecord], role: ServiceRole, reap: Callable[[], object]) -> list[str]:
    for process in processes:
        signal_process(process.pid, process.started, signal.SIGTERM)
        signal_process(process.pid, process.started, signal.SIGCONT)
    _wait(processes, lambda process: process.running, GRACE_S[role], reap)
    left = _wait(processes, _lives, ORPHANS_S, reap)
    for process in left:
        signal_group(process.pid, process.started, signal.SIGKILL)
        signal_process(process.pid, process.started, signal.SIGKILL)
    _wait(left, _lives, KILL_S, reap)
    return [process.name for process in left]


def _lives(process: ProcessRecord) -> bool:
    """It, or one of its children; a process that was started by hand leads no group of its own."""
    return process.running or bool(group_members(process.pid, process.started))


def _wait(
    processes: Sequence[ProcessRecord],
    lives: Callable[[ProcessRecord], bool],
    seconds: float,
    reap: Callable[[], object],
) -> list[ProcessRecord]:
    """Those that still live, in the sense given, when none does or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(ChildProcessError):
            reap()
        left = [process for process in processes if lives(process)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)
