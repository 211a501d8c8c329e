"""The containers of an emulation: coordinator, gateway and a worker for each box, with keys, in their own network."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from stageline.admin import AdminClient
from stageline.bench.report import Settings
from stageline.catalogue import Report
from stageline.config import CoordinatorConfig, GatewayConfig
from stageline.emulation import rates, runs
from stageline.emulation.capacity import check_capacity, pinned, quota
from stageline.emulation.engine import Engine, Recipe
from stageline.emulation.reaper import Reaper
from stageline.emulation.spec import GATEWAY, Box, Emulation, Link
from stageline.emulation.usage import Usage, read_usage
from stageline.errors import ClusterError, NoClusterError, NotReadyError
from stageline.keyfiles import ADMIN, COORDINATOR, NODES, add_node, init_keys

COORDINATOR_NAME, LOAD_NAME, DELAY_NAME = "coordinator", "load", "delay"
KEYS = "/etc/stageline/keys"
DATA = "/var/lib/stageline"
CONTROL_PORT, CLIENT_PORT = CoordinatorConfig.port, GatewayConfig.port
DATA_PORT, FIRST_DELAY_PORT = 7720, 7800
START_CPU_S = 8.0
"""Processor seconds that a worker may take until it serves, importing torch above all."""

READY_S = 90.0
POLL_S = 0.2


@dataclass(frozen=True)
class Images:
    """By name, on this machine."""

    control: str
    stage: str


class Site:
    """A context manager; afterwards nothing of it is left, also when this process is killed."""

    def __init__(self, emulation: Emulation, images: Images) -> None:
        self.emulation = emulation
        self._images = images
        self.engine = Engine()
        self._run = runs.new_run()
        self._labels = runs.labels(self._run)
        self._network = f"stageline-emulation-{self._run}"
        self._folder = Path()
        self._reaper: Reaper | None = None
        self.containers: dict[str, str] = {}
        self._pids: dict[str, int] = {}
        self._late: dict[str, str] = {}
        self._admin: AdminClient | None = None

    def __enter__(self) -> Site:
        """Raises what `check` raises; nothing is started yet."""
        self.check()
        self._folder = Path(tempfile.mkdtemp(prefix="stageline-emulation-"))
        self._reaper = Reaper(self._run, self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._admin is not None:
            self._admin.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        runs.remove_run(self.engine, self._run, 0.0 if kind is None else runs.LATE_S)
        if self._reaper is not None:
            self._reaper.dismiss()
        self.engine.close()

    def check(self) -> None:
        """Raises `ConfigError` for what this machine cannot be, `ClusterError` while another emulation runs."""
        check_capacity(self.emulation, self.engine.cpus, self.engine.memory_mib)
        if self.emulation.limits_links:
            rates.check_tools()
        self.engine.check_image(self._images.control, "--control-image")
        self.engine.check_image(self._images.stage, "--stage-image")
        runs.remove(self.engine, runs.leftovers(self.engine))
        others = runs.others(self.engine)
        if others:
            raise ClusterError(
                f"another emulation runs ({others[0]}), and two would take each other's CPUs: wait for it"
            )

    @property
    def admin(self) -> AdminClient:
        """A connection to the coordinator."""
        if self._admin is None:
            raise NoClusterError("the emulated cluster is not up")
        return self._admin

    @property
    def ready_s(self) -> float:
        """How long starting may take: all boxes at once, each on its quota."""
        return READY_S + max(START_CPU_S / min(1.0, box.cpus) for box in self.emulation.boxes)

    def start(self, report: Report) -> None:
        """Start everything and wait until all have registered. Raises `NotReadyError` naming who has not."""
        keys = self._folder / "keys"
        init_keys(keys)
        for name in (GATEWAY, *(box.name for box in self.emulation.boxes)):
            add_node(keys, name)
        report("the network and the coordinator", 0.0)
        self.engine.create_network(self._network, self._labels)
        self._start_service(COORDINATOR_NAME, [DATA], keys / COORDINATOR)
        address = f"tcp://{self.engine.address(self.containers[COORDINATOR_NAME])}:{CONTROL_PORT}"
        self._admin = self._connect(address, keys / ADMIN)
        self._start_delays()
        self._start_member(GATEWAY, address, keys, self.emulation.gateway)
        cores = pinned([box.cpus for box in self.emulation.boxes], range(self.engine.cpus))
        for number, (box, core) in enumerate(zip(self.emulation.boxes, cores, strict=True)):
            report(f"node {box.name}", number / (2 * len(cores)))
            self._start_member(box.name, address, keys, box.link, box, core)
        self._wait_registered(report)

    def lose(self, node: str) -> None:
        """Kill it."""
        self.engine.kill(self.containers[node])

    def restore(self, node: str, link: Link) -> None:
        """Start it again, with what was on its disk."""
        self._launch(node)
        self.limit(node, link)

    def freeze(self, node: str, frozen: bool) -> None:
        """Stop it where it is, or let it go on."""
        self.engine.pause(self.containers[node], frozen)

    def limit(self, node: str, link: Link) -> None:
        """Change the rates of its link."""
        if self.emulation.limits_links:
            rates.limit(self._pids[node], link)

    def usage(self) -> dict[str, Usage]:
        """What each box has used since it started last."""
        return {box.name: read_usage(self._pids[box.name]) for box in self.emulation.boxes}

    def start_load(self, settings: Settings) -> str:
        """Start the load beside the gateway, which serves clients of its own machine only; its container."""
        command = ["python", "-m", "stageline.emulation.load", json.dumps(asdict(settings)), f"127.0.0.1:{CLIENT_PORT}"]
        network = f"container:{self.containers[GATEWAY]}"
        found = self.engine.create(Recipe(self._name(LOAD_NAME), self._images.control, command, network, self._labels))
        self.engine.start(found)
        self.containers[LOAD_NAME] = found
        return found

    def lines(self, container: str) -> Iterator[bytes]:
        """What a container writes on stdout until it ends; for a thread of its own."""
        engine = Engine()
        try:
            yield from engine.lines(container)
        finally:
            engine.close()

    # --- containers -----------------------------------------------------------------------------------------

    def _name(self, service: str) -> str:
        return f"{self._network}-{service}"

    def _start_member(
        self, name: str, address: str, keys: Path, link: Link, box: Box | None = None, core: str = ""
    ) -> None:
        """The gateway, or the worker of a box."""
        self._start_service(name, [DATA] if box else [], keys / NODES / name, address, box, core)
        if link.limited:
            rates.limit(self._pids[name], link)

    def _start_service(
        self, name: str, volumes: list[str], keys: Path, address: str = "", box: Box | None = None, core: str = ""
    ) -> None:
        section = "stage" if box else name
        image = self._images.stage if box else self._images.control
        settings = self.emulation.settings.get(section, {})
        if name in self._late:
            settings = {**settings, "data_port": DATA_PORT, "data_address": self._late[name]}
        environment = _environment(name, address, box, settings)
        self.containers[name] = self.engine.create(
            Recipe(
                self._name(name),
                image,
                [f"stageline-{section}"],
                self._network,
                self._labels,
                environment,
                [KEYS, *volumes],
                _limits(box, core) if box else {},
            )
        )
        files = {str(file.relative_to(keys)): file.read_bytes() for file in keys.rglob("*") if file.is_file()}
        self.engine.put(self.containers[name], KEYS, files)
        self._launch(name)

    def _launch(self, name: str) -> None:
        self.engine.start(self.containers[name])
        self._pids[name] = self.engine.pid(self.containers[name])

    def _start_delays(self) -> None:
        """The proxy before all that are reached late; it finds them by the names of their containers."""
        delays = self.emulation.delays_ms
        if not delays:
            return
        ports = {name: FIRST_DELAY_PORT + number for number, name in enumerate(delays)}
        routes = {ports[name]: [self._name(name), DATA_PORT, delays[name]] for name in delays}
        command = ["python", "-m", "stageline.emulation.delay", json.dumps(routes)]
        recipe = Recipe(self._name(DELAY_NAME), self._images.control, command, self._network, self._labels)
        self.containers[DELAY_NAME] = self.engine.create(recipe)
        self._launch(DELAY_NAME)
        proxy = self.engine.address(self.containers[DELAY_NAME])
        self._late = {name: f"tcp://{proxy}:{port}" for name, port in ports.items()}

    # --- waiting --------------------------------------------------------------------------------------------

    def _connect(self, address: str, keys: Path) -> AdminClient:
        deadline = time.monotonic() + READY_S
        while True:
            self.check_alive()
            try:
                return AdminClient(address, timeout_s=5.0, keys=keys)
            except NoClusterError:
                if time.monotonic() > deadline:
                    raise

    def _wait_registered(self, report: Report) -> None:
        wanted = {GATEWAY, *(box.name for box in self.emulation.boxes)}

        def missing() -> list[str]:
            listing = self.admin.nodes()
            here = {node.node for node in listing.nodes if node.state == "alive" and node.executors}
            here |= {gateway.name for gateway in listing.gateways if gateway.state == "alive"}
            report(f"{len(here)} of {len(wanted)} have registered", 0.5 + len(here) / (2 * len(wanted)))
            return sorted(wanted - here)

        self.wait(missing, self.ready_s, "registered")

    def wait(self, missing: Callable[[], list[str]], timeout_s: float, what: str) -> None:
        """Until nothing is missing. Raises `NotReadyError` naming what is, or a container that has ended."""
        deadline = time.monotonic() + timeout_s
        while left := missing():
            self.check_alive()
            if time.monotonic() > deadline:
                raise NotReadyError(f"not {what} within {timeout_s:.0f} s: {', '.join(left[:5])}")
            time.sleep(POLL_S)

    def check_alive(self, but: frozenset[str] = frozenset()) -> None:
        """Raises `NotReadyError` for a container that has ended on its own."""
        gone = self.engine.exited(f"{runs.RUN}={self._run}")
        for name, container in self.containers.items():
            if container in gone and name not in but:
                raise NotReadyError(f"the container of {name} has ended with {self.engine.ended(container)}")


def _environment(name: str, address: str, box: Box | None, settings: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {"host": "0.0.0.0", "keys_dir": KEYS, "log_format": "json"}
    if address:
        found |= {"name": name, "coordinator": address, "transport": "tcp"}
    if box is not None:
        seconds = READY_S + START_CPU_S / min(1.0, box.cpus)
        found |= {"threads": str(max(1, int(box.cpus))), "start_timeout_s": f"{seconds:.0f}"}
    found |= {key: str(value) for key, value in settings.items()}
    return {f"STAGELINE_{key.upper()}": value for key, value in found.items()}


def _limits(box: Box, core: str) -> dict[str, Any]:
    period_us, quota_us = quota(box.cpus)
    limits: dict[str, Any] = {"cpu_period": period_us, "cpu_quota": quota_us}
    if core:
        limits["cpuset_cpus"] = core
    if box.memory_mib:
        limits |= {"mem_limit": box.memory_mib << 20, "memswap_limit": box.memory_mib << 20}
    return limits
