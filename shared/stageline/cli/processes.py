"""All processes of a cluster: what an embedded one wrote down, joined with what its coordinator says."""

from __future__ import annotations

from typing import Any

from stageline.embedded.state import ClusterState
from stageline.messages import NodeList, NodeRow


def process_rows(state: ClusterState | None, listing: NodeList) -> list[dict[str, Any]]:
    """Name, role, pid, state, address and HTTP address of each service and executor.

    The state is what the coordinator sees of a worker or gateway (alive, suspect, draining, gone), "running" where
    it says nothing, and "dead" for a process of ours that does not exist any more.
    """
    seen = _seen(listing)
    seen |= _coordinators(state, listing)
    rows = []
    for process in state.processes if state else ():
        told = seen.pop(process.name, {})
        current = told.get("state", "running") if process.running else "dead"
        address, http = (getattr(process, key) or told.get(key, "") for key in ("address", "http"))
        rows.append(_row(process.name, process.role, process.pid, current, address, http))
        rows += told.get("executors", [])
    if state is None and listing.pid:
        rows.append(_row("coordinator", "coordinator", listing.pid, "running", "", ""))
    for name, told in seen.items():
        rows.append(_row(name, told["role"], told["pid"], told["state"], told["address"], told["http"]))
        rows += told["executors"]
    return rows


def _coordinators(state: ClusterState | None, listing: NodeList) -> dict[str, dict[str, Any]]:
    """Of several coordinators who leads, as far as they answer."""
    ours = [process for process in state.processes if process.role == "coordinator"] if state else []
    if len(ours) < 2 or not listing.pid:
        return {}
    return {process.name: {"state": "leads" if process.pid == listing.pid else "stands by"} for process in ours}


def live_gateways(listing: NodeList) -> tuple[str, ...]:
    """The client addresses of the gateways that can be asked."""
    return tuple(g.client_address for g in listing.gateways if g.state == "alive" and g.client_address)


def _seen(listing: NodeList) -> dict[str, dict[str, Any]]:
    seen: dict[str, dict[str, Any]] = {
        gateway.name: {
            "role": "gateway",
            "pid": gateway.pid,
            "state": gateway.state,
            "address": gateway.client_address,
            "http": gateway.http,
            "executors": [],
        }
        for gateway in listing.gateways
    }
    for node in listing.nodes:
        executors = _executors(node) if node.state != "gone" else []
        seen[node.node] = {
            "role": "stage",
            "pid": node.pid,
            "state": node.state,
            "address": "",
            "http": node.http,
            "executors": executors,
        }
    return seen


def _executors(node: NodeRow) -> list[dict[str, Any]]:
    return [_row(f"{node.node}/{e.executor}", "executor", e.pid, "running", e.endpoint.tcp, "") for e in node.executors]


def _row(name: str, role: str, pid: int, state: str, address: str, http: str) -> dict[str, Any]:
    return {"name": name, "role": role, "pid": pid, "state": state, "address": address, "http": http}
