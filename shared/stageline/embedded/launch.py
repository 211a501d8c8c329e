"""Starting an embedded cluster: processes, ready files, registration, each with a deadline."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from stageline import __version__
from stageline.admin import AdminClient
from stageline.config import config_file
from stageline.embedded.adoption import refresh
from stageline.embedded.ended import cure
from stageline.embedded.processes import PROC, read_stat
from stageline.embedded.settings import given_settings, worker_settings
from stageline.embedded.shutdown import stop
from stageline.embedded.state import ClusterState, ProcessRecord, ServiceRole, find, new_state, save
from stageline.errors import CancelledError, ClusterError, ConfigError, NotReadyError, StoreError
from stageline.keyfiles import COORDINATOR, NODES, add_node, init_keys

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

POLL_S = 0.02
RUNTIME_BYTES = 300 << 20
"""What an agent and an executor with torch take before they hold any weights."""
MIN_SHARE_BYTES = 64 << 20
MAX_NODES = 256
MAX_COORDINATORS = 2
STANDBY = "coordinator-2"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ClusterSpec:
    """What to start. `settings` maps a service's section to settings beyond the usual, as in the YAML file.

    A process by its name ("stage-0") may have settings of its own there. `prefixes` maps such a name to a command that
    the process is started through and that ends by executing it: `("taskset", "1")`. Of two coordinators the second
    stands by for the first, in a directory of its own. `keys`: where the keys of all of them lie, or will be made.
    """

    data_dir: Path
    nodes: int = 3
    ready_timeout_s: float = 120.0
    config: Path | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prefixes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coordinators: int = 1
    keys: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MAX_NODES:
            raise ConfigError(f"--nodes must be between 1 and {MAX_NODES}, got {self.nodes}")
        if not 1 <= self.coordinators <= MAX_COORDINATORS:
            raise ConfigError(f"--coordinators must be 1 or {MAX_COORDINATORS}, got {self.coordinators}")
        if not 0 < self.ready_timeout_s < float("inf"):
            raise ConfigError(f"--ready-timeout must be positive, got {self.ready_timeout_s}")

    @property
    def node_names(self) -> tuple[str, ...]:
        """The names of the workers."""
        return tuple(f"stage-{i}" for i in range(self.nodes))


class Cluster:
    """A running embedded cluster that this process started; stops it at the end of a `with` block."""

    def __init__(self, state: ClusterState, children: Mapping[str, subprocess.Popen[bytes]]) -> None:
        self.state = state
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


def start(
    spec: ClusterSpec, progress: Progress = lambda text: None, *, should_stop: Callable[[], bool] = lambda: False
) -> Cluster:
    """Start the cluster and wait until every worker and the gateway have registered.

    Raises `ClusterError` if one runs on that data directory, `NotReadyError` naming the log and the setting when
    something does not come up in time, `CancelledError` once `should_stop` says so; whatever was started is then
    stopped again.
    """
    data_dir = spec.data_dir.absolute()
    with _starting(data_dir):
        running = find(data_dir)
        if running is not None:
            dead = ", ".join(process.name for process in refresh(running).processes if not process.running)
            if dead:
                raise ClusterError(f"a cluster already runs on {data_dir}, but {dead} has ended: {cure(running)}")
            raise ClusterError(
                f"a cluster already runs on {data_dir} (pids {', '.join(str(p.pid) for p in running.processes)}): "
                f"stop it with `stageline down --data-dir {data_dir}`, or use another --data-dir"
            )
        launcher = _Launcher(spec, data_dir, progress, should_stop)
        try:
            return launcher.run()
        except BaseException:
            launcher.cluster.stop()
            raise


@contextmanager
def _starting(data_dir: Path) -> Iterator[None]:
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


class _Launcher:
    def __init__(self, spec: ClusterSpec, data_dir: Path, progress: Progress, should_stop: Callable[[], bool]) -> None:
        self._spec = spec
        self._should_stop = should_stop
        self._dir = data_dir
        self._progress = progress
        self._deadline = time.monotonic() + spec.ready_timeout_s
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._given = given_settings(spec.config, spec.nodes)
        self._keys = spec.keys.absolute() if spec.keys is not None else None
        keys = str(self._keys) if self._keys is not None else ""
        self.cluster = Cluster(new_state(data_dir, uuid.uuid4().hex[:12], __version__, keys), {})

    def run(self) -> Cluster:
        if self._keys is not None:
            init_keys(self._keys)
        self._progress("starting the coordinator")
        self._spawn("coordinator", "coordinator", {"data_dir": self._dir})
        control = self._wait_ready("coordinator")
        if self._spec.coordinators > 1:
            standby = {"data_dir": self._dir / STANDBY, "standby_of": control}
            self._spawn(STANDBY, "coordinator", {**standby, **ANY_PORT["coordinator"]})
            control += f",{self._wait_ready(STANDBY)}"
        self._progress(f"starting the gateway and {self._spec.nodes} workers")
        common = {"coordinator": control}
        self._spawn("gateway", "gateway", {**common, "name": "gateway"})
        share = _memory_share(self._spec.nodes)
        for number, name in enumerate(self._spec.node_names):
            own = worker_settings(self._given["stage"], number, name, self._dir / "nodes")
            self._spawn(name, "stage", {**common, "name": name, **own}, {"memory_bytes": share})
        for name in ("gateway", *self._spec.node_names):
            self._wait_ready(name)
        self._progress("waiting until all have registered")
        self._wait_registered(control)
        gateway = self.cluster.state.process("gateway")
        state = msgspec.structs.replace(
            self.cluster.state, coordinator=control, gateway=gateway.address if gateway else ""
        )
        save(state)
        self.cluster.state = state
        return self.cluster

    def _spawn(
        self, name: str, role: ServiceRole, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> None:
        """Start one service as the leader of its own session, so that its children can be ended with it.

        `settings` hold whatever environment and file say, `defaults` only where they say nothing.
        """
        self._ready_file(name).unlink(missing_ok=True)
        log = self._dir / "logs" / f"{name}.log"
        given = self._given[role]
        usual = {key: value for key, value in {**ANY_PORT[role], **(defaults or {})}.items() if key not in given}
        paths = {key: value.absolute() for key, value in given.items() if isinstance(value, Path)}
        own = {**self._spec.settings.get(role, {}), **self._spec.settings.get(name, {})}
        if self._keys is not None:
            usual["keys_dir"] = self._keys_of(name, role, self._keys)
        merged = {**usual, **paths, "ready_file": self._ready_file(name), **settings, **own}
        command = [*self._spec.prefixes.get(name, ()), sys.executable, "-m", MODULES[role]]
        config = config_file(os.environ, self._spec.config)
        if config is not None:
            command += ["--config", str(config.absolute())]
        for key, value in merged.items():
            command += [f"--{key.replace('_', '-')}", str(value)]
        with log.open("ab") as output:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
            )
        stat = read_stat(child.pid)
        record = ProcessRecord(name=name, role=role, pid=child.pid, started=stat.started if stat else 0, log=str(log))
        self._children[name] = child
        self._update((*self.cluster.state.processes, record))

    def _keys_of(self, name: str, role: ServiceRole, directory: Path) -> Path:
        if role == "coordinator":
            return directory / COORDINATOR
        add_node(directory, name)
        return directory / NODES / name

    def _update(self, processes: tuple[ProcessRecord, ...]) -> None:
        state = msgspec.structs.replace(self.cluster.state, processes=processes)
        self.cluster = Cluster(state, self._children)
        save(state)

    def _ready_file(self, name: str) -> Path:
        return self._dir / "run" / f"{name}.json"

    def _wait_ready(self, name: str) -> str:
        """The address that the service announced."""
        path = self._ready_file(name)
        while not path.exists():
            self._check(f"{name} did not start", name)
            time.sleep(POLL_S)
        ready = json.loads(path.read_text())
        processes = tuple(
            msgspec.structs.replace(p, address=ready[ADDRESS_KEY[p.role]], http=ready["http"]) if p.name == name else p
            for p in self.cluster.state.processes
        )
        self._update(processes)
        return str(ready[ADDRESS_KEY[next(p.role for p in processes if p.name == name)]])

    def _wait_registered(self, control: str) -> None:
        wanted = {*self._spec.node_names, "gateway"}
        with AdminClient(control, timeout_s=self._left(), keys=self.cluster.state.admin_keys) as admin:
            while True:
                listing = admin.nodes()
                here = {node.node for node in listing.nodes if node.state == "alive" and node.executors}
                here |= {gateway.name for gateway in listing.gateways if gateway.state == "alive"}
                missing = sorted(wanted - here)
                standby = listing.standby
                behind = standby is None or standby.state != "alive" or standby.behind > 0
                missing += [STANDBY] if self._spec.coordinators > 1 and behind else []
                if not missing:
                    return
                self._check(f"{', '.join(missing)} did not register with the coordinator", missing[0])
                time.sleep(5 * POLL_S)

    def _left(self) -> float:
        return max(0.1, self._deadline - time.monotonic())

    def _check(self, what: str, name: str) -> None:
        """Raise if a process has ended, the time is over or the user wants to stop."""
        if self._should_stop():
            raise CancelledError("interrupted while starting: nothing is left running")
        for child, code in self.cluster.exited().items():
            raise NotReadyError(f"{child} ended with {_status(code)} while starting{_last_line(self._log(child))}")
        if time.monotonic() > self._deadline:
            raise NotReadyError(
                f"{what} within {self._spec.ready_timeout_s:g} s: see {self._log(name)}, or raise --ready-timeout"
            )

    def _log(self, name: str) -> Path:
        return self._dir / "logs" / f"{name}.log"


def _memory_share(nodes: int) -> int:
    """Bytes that each worker may offer: they share one machine, and each needs a runtime beside its weights."""
    lines = (line.split() for line in (PROC / "meminfo").read_text().splitlines())
    available = next(int(fields[1]) << 10 for fields in lines if fields[0] == "MemAvailable:")
    return max(available // nodes - RUNTIME_BYTES, MIN_SHARE_BYTES)


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096), os.SEEK_SET)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1]} (all of it in {log})" if lines else f": see {log}"
