"""Starting processes of an embedded cluster, and waiting until they are there, each wait with a deadline."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import msgspec

from stageline.addresses import port_of
from stageline.admin import AdminClient
from stageline.embedded.ports import hold, keep_ports, kept_ports
from stageline.embedded.processes import read_stat
from stageline.embedded.shutdown import stop
from stageline.embedded.state import ClusterState, ProcessRecord, ServiceRole, save
from stageline.errors import CancelledError, ClusterError, NotReadyError, StoreError
from stageline.messages import NodeList

MODULES: dict[ServiceRole, str] = {
    "coordinator": "stageline_coordinator",
    "gateway": "stageline_gateway",
    "stage": "stageline_stage",
}
ADDRESS_KEY: dict[ServiceRole, str] = {"coordinator": "control", "gateway": "client", "stage": "http"}
"""Which entry of a service's ready file is the address to reach it by."""

ANY_PORT: dict[ServiceRole, dict[str, int]] = {
    "coordinator": {"port": 0, "plan_port": 0, "blob_port": 0, "join_port": 0, "http_port": 0},
    "gateway": {"port": 0, "http_port": 0},
    "stage": {"http_port": 0},
}
"""Several clusters may run on one machine: free ports, unless environment or file name some."""

ANNOUNCED: dict[ServiceRole, dict[str, str]] = {
    "coordinator": {"http_port": "http"},
    "gateway": {"port": "client", "http_port": "http"},
    "stage": {"http_port": "http"},
}
"""Which ports are kept, and the entry of the ready file that tells each; the coordinator keeps its others itself."""

POLL_S = 0.02
STANDBY = "coordinator-2"
Progress = Callable[[str], None]


class Cluster:
    """A running embedded cluster that this process started; stops it at the end of a `with` block."""

    def __init__(
        self, state: ClusterState, children: Mapping[str, subprocess.Popen[bytes]], moved: Sequence[str] = ()
    ) -> None:
        self.state = state
        self.moved = tuple(moved)
        """Which ports of the last run were taken, in words."""
        self._children = dict(children)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def exited(self) -> dict[str, int]:
        """Exit codes of the processes that have ended (negative: the signal)."""
        return {name: code for name, child in self._children.items() if (code := child.poll()) is not None}

    def stop(self) -> None:
        """Stop everything; harmless when it was stopped already."""
        stop(self.state, reap=self.exited)
        for child in self._children.values():
            child.wait()  # ended, but perhaps not collected yet


@contextmanager
def starting(data_dir: Path) -> Iterator[None]:
    """Hold the data directory against another start at the same time."""
    try:
        for path in (data_dir / "run", data_dir / "logs"):
            path.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / "logs", os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"cannot use {data_dir} as data directory ({error.strerror}): choose another") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ClusterError(f"a cluster is being started on {data_dir}: wait, or use another --data-dir") from None
    finally:
        os.close(lock)


class Spawner:
    """Starts processes of the cluster that `state` describes, and writes down what it started."""

    def __init__(self, state: ClusterState, timeout_s: float, should_stop: Callable[[], bool]) -> None:
        self._dir = Path(state.data_dir)
        self._timeout_s = timeout_s
        self._should_stop = should_stop
        self._deadline = time.monotonic() + timeout_s
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._free: dict[str, dict[str, int]] = {}
        self._holders: dict[str, list[socket.socket]] = {}
        self.cluster = Cluster(state, {})

    def release(self) -> None:
        """Let go of the ports that were held for services; harmless when they were let go already."""
        for name in list(self._holders):
            self._release(name)

    def _ports(self, name: str, settings: Iterable[str]) -> dict[str, int]:
        """For each of the settings the port that it had last if nobody has it now, else 0 (any); held until ready."""
        last = kept_ports(self._dir).get(name, {})
        chosen = {}
        for setting in settings:
            holder = hold(last[setting]) if setting in last else None
            if holder is not None:
                self._holders.setdefault(name, []).append(holder)
            chosen[setting] = last[setting] if holder is not None else 0
            self._free.setdefault(name, {})[setting] = last.get(setting, 0)
        return chosen

    def _execute(
        self, name: str, role: ServiceRole, command: Sequence[str], environ: Mapping[str, str] = os.environ
    ) -> None:
        """Start one service as the leader of its own session, so that its children can be ended with it."""
        self._ready_file(name).unlink(missing_ok=True)
        log = self._log(name)
        with log.open("ab") as output:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True,
                env=environ,
            )  # fmt: skip
        stat = read_stat(child.pid)
        record = ProcessRecord(
            name=name, role=role, pid=child.pid, started=stat.started if stat else 0, log=str(log),
            command=tuple(command),
        )  # fmt: skip
        self._children[name] = child
        processes = self.cluster.state.processes
        if any(process.name == name for process in processes):
            self._update(tuple(record if process.name == name else process for process in processes))
        else:
            self._update((*processes, record))

    def _update(self, processes: tuple[ProcessRecord, ...], moved: Sequence[str] = ()) -> None:
        state = msgspec.structs.replace(self.cluster.state, processes=processes)
        self.cluster = Cluster(state, self._children, (*self.cluster.moved, *moved))
        save(state)

    def _up(self, coordinator: str) -> None:
        """Write down that all of it is up, and where."""
        gateway = self.cluster.state.process("gateway")
        address = gateway.address if gateway else ""
        self.cluster.state = msgspec.structs.replace(self.cluster.state, coordinator=coordinator, gateway=address)
        save(self.cluster.state)

    def _wait_ready(self, name: str) -> str:
        """The address that the service announced; its ports are kept, and those that it could not have again told."""
        path = self._ready_file(name)
        while not path.exists():
            self._check(f"{name} did not start", name)
            time.sleep(POLL_S)
        ready = json.loads(path.read_text())
        self._release(name)
        role = next(p.role for p in self.cluster.state.processes if p.name == name)
        before = self._free.get(name, {})
        now = {key: port_of(ready[entry]) for key, entry in ANNOUNCED[role].items() if key in before}
        keep_ports(self._dir, name, now)
        moved = [
            f"port {before[key]} of {name} ({key}) is taken: it has {port} now"
            for key, port in now.items()
            if before[key] not in (0, port)
        ]
        address = str(ready[ADDRESS_KEY[role]])
        processes = tuple(
            msgspec.structs.replace(p, address=address, http=ready["http"]) if p.name == name else p
            for p in self.cluster.state.processes
        )
        self._update(processes, moved)
        return address

    def _wait_registered(self, control: str, wanted: Mapping[str, int], *, standby: bool) -> None:
        """Until gateways and workers are there, by name and pid (0: any), and if asked for, a standby in step."""
        with AdminClient(control, timeout_s=self._left(), keys=self.cluster.state.admin_keys) as admin:
            while True:
                listing = admin.nodes()
                missing = _missing(listing, wanted)
                behind = listing.standby is None or listing.standby.state != "alive" or listing.standby.behind > 0
                missing += [STANDBY] if standby and behind else []
                if not missing:
                    return
                self._check(f"{', '.join(missing)} did not register with the coordinator", missing[0])
                time.sleep(5 * POLL_S)

    def _left(self) -> float:
        return max(0.1, self._deadline - time.monotonic())

    def _check(self, what: str, name: str) -> None:
        """Raise if a process has ended, the time is over or the user wants to stop."""
        if self._should_stop():
            raise CancelledError("interrupted while starting: nothing that was started is left running")
        for child, code in self.cluster.exited().items():
            raise NotReadyError(f"{child} ended with {_status(code)} while starting{_last_line(self._log(child))}")
        if time.monotonic() > self._deadline:
            raise NotReadyError(f"{what} within {self._timeout_s:g} s: see {self._log(name)}, or raise --ready-timeout")

    def _release(self, name: str) -> None:
        for holder in self._holders.pop(name, []):
            holder.close()

    def _ready_file(self, name: str) -> Path:
        return self._dir / "run" / f"{name}.json"

    def _log(self, name: str) -> Path:
        return self._dir / "logs" / f"{name}.log"


def _missing(listing: NodeList, wanted: Mapping[str, int]) -> list[str]:
    here = {node.node: node.pid for node in listing.nodes if node.state == "alive" and node.executors}
    here |= {gateway.name: gateway.pid for gateway in listing.gateways if gateway.state == "alive"}
    return sorted(name for name, pid in wanted.items() if name not in here or pid not in (0, here[name]))


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096), os.SEEK_SET)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1]} (all of it in {log})" if lines else f": see {log}"
