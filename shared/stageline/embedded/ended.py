"""What to say when a cluster of this machine, or a process of it, has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stageline.embedded.state import ClusterState, ServiceRole
from stageline.errors import ConnectionLostError, NoClusterError


@contextmanager
def explaining(state: ClusterState | None, role: ServiceRole) -> Iterator[None]:
    """In the place of "no answer": that all processes of that role have ended, where we know it. `NoClusterError`."""
    try:
        yield
    except (NoClusterError, ConnectionLostError):
        said = explain(state, role) if state is not None else ""
        if not said:
            raise
        raise NoClusterError(said) from None


def explain(state: ClusterState, role: ServiceRole) -> str:
    """Why nothing of that role answers, and what to do; empty if one of them runs, or who ran is not known."""
    processes = [process for process in state.processes if process.role == role]
    if not processes or any(process.running for process in processes):
        return ""
    if not state.alive:
        return (
            f"the cluster on {state.data_dir} is gone: start it again with `stageline up --data-dir {state.data_dir}`"
        )
    names = ", ".join(process.name for process in processes)
    logs = f"see `stageline logs {processes[0].name}`"
    return f"of the cluster on {state.data_dir}, {names} has ended ({logs}): {cure(state)}"


def cure(state: ClusterState) -> str:
    """How what has ended comes back."""
    named = f"--data-dir {state.data_dir}"
    return (
        f"`stageline down {named}`, then `stageline up {named}` with the flags that it had, starts all of it again, "
        "and its models are kept"
    )
