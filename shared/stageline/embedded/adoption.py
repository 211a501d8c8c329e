"""Processes of an embedded cluster that somebody started anew by hand, under the names of those that ended.

The state file knows only what `stageline up` started; who is here now, the coordinator says.
"""

from __future__ import annotations

import msgspec

from stageline.admin import AdminClient
from stageline.embedded.processes import PROC, read_stat
from stageline.embedded.state import ClusterState, ProcessRecord, ServiceRole
from stageline.errors import ClusterError
from stageline.messages import NodeList

TIMEOUT_S = 2.0


def refresh(state: ClusterState) -> ClusterState:
    """As `adopt`, after asking the coordinator if a process has ended; as it is where none answers."""
    if not state.coordinator or all(process.running for process in state.processes):
        return state
    try:
        with AdminClient(state.coordinator, timeout_s=TIMEOUT_S, keys=state.admin_keys) as admin:
            return adopt(state, admin.nodes())
    except ClusterError:
        return state


def adopt(state: ClusterState, listing: NodeList) -> ClusterState:
    """The state with the successors of processes that have ended. Their logs are not the cluster's any more."""
    pids = {("coordinator", "coordinator"): listing.pid}
    pids |= {("gateway", row.name): row.pid for row in listing.gateways if row.state != "gone"}
    pids |= {("stage", row.node): row.pid for row in listing.nodes if row.state != "gone"}
    known = {process.pid for process in state.processes if process.running}
    pids = {key: pid for key, pid in pids.items() if pid not in known}
    processes = (
        process if process.running else _successor(process, pids.get((process.role, process.name), 0)) or process
        for process in state.processes
    )
    return msgspec.structs.replace(state, processes=tuple(processes))


def _successor(process: ProcessRecord, pid: int) -> ProcessRecord | None:
    """None unless `pid` is a live process of that role on this machine: what is adopted may be stopped, too."""
    stat = read_stat(pid) if pid else None
    if stat is None or stat.dead or not _has_role(pid, process.role):
        return None
    address = process.address if process.role == "coordinator" else ""
    return ProcessRecord(name=process.name, role=process.role, pid=pid, started=stat.started, log="", address=address)


def _has_role(pid: int, role: ServiceRole) -> bool:
    """Whether the command is the service's: a pid may come from elsewhere, out of a container say."""
    try:
        command = (PROC / str(pid) / "cmdline").read_text(errors="replace")
    except OSError:
        return False
    return f"stageline_{role}" in command.replace("-", "_")
