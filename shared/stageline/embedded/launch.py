"""Starting an embedded cluster: processes, ready files, registration, each with a deadline."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stageline import __version__
from stageline.config import config_file
from stageline.embedded.adoption import refresh
from stageline.embedded.ended import already_runs
from stageline.embedded.processes import PROC
from stageline.embedded.settings import given_settings, worker_settings
from stageline.embedded.spawning import ADDRESS_KEY, ANY_PORT, MODULES, STANDBY, Cluster, Progress, Spawner, starting
from stageline.embedded.state import ServiceRole, find, new_state
from stageline.errors import ClusterError, ConfigError
from stageline.keyfiles import COORDINATOR, NODES, add_node, init_keys

__all__ = ["ADDRESS_KEY", "MODULES", "Cluster", "ClusterSpec", "start"]

RUNTIME_BYTES = 300 << 20
"""What an agent and an executor with torch take before they hold any weights."""
MIN_SHARE_BYTES = 64 << 20
MAX_NODES = 256
MAX_COORDINATORS = 2


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


def start(
    spec: ClusterSpec, progress: Progress = lambda text: None, *, should_stop: Callable[[], bool] = lambda: False
) -> Cluster:
    """Start the cluster and wait until every worker and the gateway have registered.

    Raises `ClusterError` if one runs on that data directory, `NotReadyError` naming the log and the setting when
    something does not come up in time, `CancelledError` once `should_stop` says so; whatever was started is then
    stopped again.
    """
    data_dir = spec.data_dir.absolute()
    with starting(data_dir):
        running = find(data_dir)
        if running is not None:
            raise ClusterError(already_runs(refresh(running)))
        launcher = _Launcher(spec, data_dir, progress, should_stop)
        try:
            return launcher.run()
        except BaseException:
            launcher.cluster.stop()
            raise
        finally:
            launcher.release()


class _Launcher(Spawner):
    def __init__(self, spec: ClusterSpec, data_dir: Path, progress: Progress, should_stop: Callable[[], bool]) -> None:
        self._given = given_settings(spec.config, spec.nodes)
        self._keys = spec.keys.absolute() if spec.keys is not None else None
        keys = str(self._keys) if self._keys is not None else ""
        super().__init__(
            new_state(data_dir, uuid.uuid4().hex[:12], __version__, keys), spec.ready_timeout_s, should_stop
        )
        self._spec = spec
        self._progress = progress

    def run(self) -> Cluster:
        if self._keys is not None:
            init_keys(self._keys)
        self._progress("starting the coordinator")
        self._spawn("coordinator", "coordinator", {"data_dir": self._dir})
        control = self._wait_ready("coordinator")
        if self._spec.coordinators > 1:
            standby = {"data_dir": self._dir / STANDBY, "standby_of": control}
            self._spawn(STANDBY, "coordinator", {**standby, **self._ports(STANDBY, ANY_PORT["coordinator"])})
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
        wanted = dict.fromkeys(("gateway", *self._spec.node_names), 0)
        self._wait_registered(control, wanted, standby=self._spec.coordinators > 1)
        self._up(control)
        return self.cluster

    def _spawn(
        self, name: str, role: ServiceRole, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> None:
        """Start one service. `settings` hold whatever environment and file say, `defaults` where they say nothing."""
        given = self._given[role]
        own = {**self._spec.settings.get(role, {}), **self._spec.settings.get(name, {})}
        usual = {key: value for key, value in (defaults or {}).items() if key not in given}
        usual |= self._ports(name, (key for key in ANY_PORT[role] if key not in {**given, **settings, **own}))
        paths = {key: value.absolute() for key, value in given.items() if isinstance(value, Path)}
        if self._keys is not None:
            usual["keys_dir"] = self._keys_of(name, role, self._keys)
        merged = {**usual, **paths, "ready_file": self._ready_file(name), **settings, **own}
        command = [*self._spec.prefixes.get(name, ()), sys.executable, "-m", MODULES[role]]
        config = config_file(os.environ, self._spec.config)
        if config is not None:
            command += ["--config", str(config.absolute())]
        for key, value in merged.items():
            command += [f"--{key.replace('_', '-')}", str(value)]
        self._execute(name, role, command)

    def _keys_of(self, name: str, role: ServiceRole, directory: Path) -> Path:
        if role == "coordinator":
            return directory / COORDINATOR
        add_node(directory, name)
        return directory / NODES / name


def _memory_share(nodes: int) -> int:
    """Bytes that each worker may offer: they share one machine, and each needs a runtime beside its weights."""
    lines = (line.split() for line in (PROC / "meminfo").read_text().splitlines())
    available = next(int(fields[1]) << 10 for fields in lines if fields[0] == "MemAvailable:")
    return max(available // nodes - RUNTIME_BYTES, MIN_SHARE_BYTES)
