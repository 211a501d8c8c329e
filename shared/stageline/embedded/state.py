"""What an embedded cluster writes down about itself, and the user's registry of running ones.

The same JSON lies at two places: `cluster.json` in the data directory, and
``$XDG_STATE_HOME/stageline/clusters/ID.json`` (``~/.local/state`` by default), where other commands find it without
flags. A file whose coordinator does not run any more counts for nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from stageline.embedded.processes import boot_id, is_running
from stageline.keyfiles import ADMIN

STATE_FILE = "cluster.json"
ServiceRole = Literal["coordinator", "gateway", "stage"]


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One service process; `started` in clock ticks since boot, addresses empty until it is up.

    `command`: what it was started with; empty if an older release did.
    """

    name: str
    role: ServiceRole
    pid: int
    started: int
    log: str
    address: str = ""
    http: str = ""
    command: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Whether that very process still runs."""
        return is_running(self.pid, self.started)


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """An embedded cluster; `coordinator` and `gateway` are empty until all of it is up.

    `keys`: the directory of its keys, empty if it has none.
    """

    id: str
    data_dir: str
    boot: str
    created: float
    version: str = ""
    coordinator: str = ""
    gateway: str = ""
    processes: tuple[ProcessRecord, ...] = ()
    keys: str = ""

    @property
    def admin_keys(self) -> Path | None:
        """Where the keys of its administrator lie."""
        return Path(self.keys) / ADMIN if self.keys else None

    @property
    def alive(self) -> bool:
        """Whether any of its processes still runs."""
        return self.boot == boot_id() and any(process.running for process in self.processes)

    @property
    def dead(self) -> tuple[ProcessRecord, ...]:
        """Its processes that have ended."""
        return tuple(process for process in self.processes if not process.running)

    @property
    def usable(self) -> bool:
        """Whether all of it has been up and some of it still runs: requests need no coordinator, for one."""
        return bool(self.coordinator) and self.alive

    def process(self, name: str) -> ProcessRecord | None:
        """The process called `name`."""
        return next((p for p in self.processes if p.name == name), None)


def registry_dir() -> Path:
    """Where running clusters are listed (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local/state") / "stageline/clusters"


def new_state(data_dir: Path, identity: str, version: str, keys: str = "") -> ClusterState:
    """A cluster of which nothing runs yet."""
    return ClusterState(
        id=identity, data_dir=str(data_dir), boot=boot_id(), created=time.time(), version=version, keys=keys
    )


def save(state: ClusterState) -> None:
    """Write both files, each atomically."""
    data = msgspec.json.format(msgspec.json.encode(state), indent=2)
    for path in _paths(state):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(data + b"\n")
        temporary.replace(path)


def forget(state: ClusterState) -> None:
    """Remove both files, unless another cluster has taken the data directory over."""
    for path in _paths(state):
        found = load(path)
        if found is None or found.id == state.id:
            path.unlink(missing_ok=True)


def load(path: Path) -> ClusterState | None:
    """What a state file says; None if there is none or it is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ClusterState)
    except (OSError, msgspec.DecodeError):
        return None


def find(data_dir: Path) -> ClusterState | None:
    """The cluster of which processes run on `data_dir`."""
    state = load(data_dir / STATE_FILE)
    return state if state is not None and state.alive else None


def running() -> list[ClusterState]:
    """The user's clusters of which processes run, newest first."""
    found = [state for state in _registered() if state.alive]
    return sorted(found, key=lambda state: state.created, reverse=True)


def _registered() -> Iterator[ClusterState]:
    for path in sorted(registry_dir().glob("*.json")):
        state = load(path)
        if state is not None:
            yield state


def _paths(state: ClusterState) -> tuple[Path, Path]:
    return Path(state.data_dir) / STATE_FILE, registry_dir() / f"{state.id}.json"
