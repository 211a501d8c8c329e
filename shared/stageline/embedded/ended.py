"""What to say when a cluster of this machine, or a process of it, has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    logs = f"see `stageline logs {processes[0].name}`"
    return f"of the cluster on {state.data_dir}, {ended([p.name for p in processes])} ({logs}): {cure(state)}"


def ended(names: Sequence[str]) -> str:
    """That they have ended."""
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} ended"


def already_runs(state: ClusterState) -> str:
    """Why no other cluster can be started on its data directory, and what to do."""
    if state.dead:
        names = [process.name for process in state.dead]
        return f"a cluster already runs on {state.data_dir}, but {ended(names)}: {cure(state)}"
    return (
        f"a cluster already runs on {state.data_dir} (pids {', '.join(str(p.pid) for p in state.processes)}): "
        f"stop it with `stageline down --data-dir {state.data_dir}`, or use another --data-dir"
    )


def revivable(state: ClusterState) -> bool:
    """Whether what has ended can be started again beside what runs: all of it was up once, and it is known how."""
    return state.usable and all(process.command for process in state.dead)


def cure(state: ClusterState) -> str:
    """How what has ended comes back."""
    named = f"--data-dir {state.data_dir}"
    if revivable(state):
        return f"`stageline up {named}` starts what has ended again"
    return (
        f"`stageline down {named}`, then `stageline up {named}` with the flags that it had, starts all of it again, "
        "and its models are kept"
    )
