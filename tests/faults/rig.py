"""A cluster that is hurt, heals and is measured.

Direct: as `stageline up` starts it. Proxied: all links of workers and gateway lead through fault proxies. Journaled:
the gateway has a journal. Clocked: each service has a wall clock of its own. Wired: only activations, and what clients
say, lead through proxies. Paired: a second coordinator stands by, with proxies between the two. Two gateways: clients
know both, and use the second when the first fails them.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from ports import free_port

from stageline.admin import AdminClient
from stageline.embedded.processes import read_stat
from stageline.embedded.state import ServiceRole
from stageline.errors import ClusterError
from stageline.manifest import canonical_json
from stageline.messages import NodeRow
from stageline.plan import ModelPlan

from . import clock
from .disk import DISK_BYTES, small_disk
from .load import wait_until
from .model import NAME, import_marked
from .proxy import Proxy, ProxyThread
from .service import Figures, Service

RigKind = Literal["direct", "proxied", "wired", "journaled", "clocked", "paired", "two gateways"]

NODES = 3
COORDINATORS = ("coordinator", "coordinator-2")
GATEWAYS = ("gateway", "gateway-2")
READY_S = 90.0
GATEWAY = {"max_batch": 4, "window": 64, "window_bytes": 1 << 30, "answer_keep_s": 2, "name": "gateway"}
"""A window so wide that the load is dispatched, not waiting at the gateway, when a worker dies."""

KEEP_S, KEEP_BYTES = 20, 8 << 20
"""How long, and how much, a gateway with a journal keeps of answers: their clients may come late."""


class Rig:
    """Three workers, a gateway, a coordinator and the marked network on them; a context manager.

    The coordinator's state, each worker's cache and the gateway's journal lie on small disks of their own, where we may
    mount them.
    """

    def __init__(self, folder: Path, kind: RigKind, *, seed: int = 0, disk_bytes: int = DISK_BYTES) -> None:
        self.folder, self.kind, self._disk_bytes = folder, kind, disk_bytes
        self._stack = ExitStack()
        self._thread = ProxyThread(seed)
        self.random = self._thread.random
        self.proxies: dict[str, Proxy] = {}
        self.services: dict[str, Service] = {}
        self.manifest = ""
        self.decoys: list[subprocess.Popen[bytes]] = []
        self._baseline: dict[str, Figures] = {}

    def __enter__(self) -> Rig:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything; nothing is left that a gentle end would save."""
        for service in self.services.values():
            service.kill()
        self._end_decoys()
        self._thread.close()
        self._stack.close()

    def _end_decoys(self) -> None:
        for child in self.decoys:
            child.kill()
            child.wait()
        self.decoys.clear()

    # --- what is there --------------------------------------------------------------------------------------

    @property
    def proxied(self) -> bool:
        """Whether links lead through proxies."""
        return self.kind in ("proxied", "wired")

    @property
    def state(self) -> Path:
        """The coordinator's directory."""
        return self.folder / "disk-coordinator" / "state"

    def cache(self, node: str) -> Path:
        """A worker's cache."""
        return self.folder / f"disk-{node}" / "cache"

    @property
    def journal(self) -> Path:
        """The gateway's journal."""
        return self.folder / "disk-gateway" / "journal"

    @property
    def gateway(self) -> Service:
        return self.services["gateway"]

    def gateways(self) -> list[Service]:
        """All of them."""
        return [self.services[name] for name in GATEWAYS if name in self.services]

    @property
    def coordinator(self) -> Service:
        return self.services["coordinator"]

    @property
    def client_address(self) -> str:
        """Where clients connect: the proxy in front of the gateway, if there is one; several with commas."""
        return self.proxies["client"].address if self.proxied else ",".join(one.address for one in self.gateways())

    def admin(self) -> AdminClient:
        """A connection to the coordinator itself, of two the one that leads."""
        return AdminClient(self.control, timeout_s=5.0)

    @property
    def control(self) -> str:
        """The coordinators' addresses."""
        return ",".join(self.services[name].address for name in COORDINATORS if name in self.services)

    def plan(self) -> ModelPlan | None:
        """How the network is placed now."""
        with self.admin() as admin:
            return admin.plan().model(NAME)

    def nodes(self) -> dict[str, NodeRow]:
        """Workers by name."""
        with self.admin() as admin:
            return {row.node: row for row in admin.nodes().nodes}

    def placed(self) -> list[str]:
        """The workers of the network's stages, in order."""
        plan = self.plan()
        return [stage.replicas[0].node for stage in plan.stages] if plan is not None else []

    def blocks_on(self, node: str) -> int:
        """How many blocks of the network the worker computes now."""
        plan = self.plan()
        stages = plan.stages if plan is not None else ()
        return sum(stage.end - stage.start for stage in stages if stage.replicas[0].node == node)

    def spared(self, node: str, blocks: int) -> bool:
        """Whether the worker is called degraded, and has fewer than `blocks` to compute."""
        row = self.nodes().get(node)
        return row is not None and row.degraded and self.blocks_on(node) < blocks

    def in_flight(self, node: str) -> int:
        """Requests dispatched on a path through `node` and unanswered, as the gateways say."""
        name = "stageline_gateway_node_in_flight"
        return int(sum(gateway.gauge(name, model=NAME, node=node) for gateway in self.gateways()))

    def unanswered(self) -> int:
        """Requests that the gateways have not answered."""
        ways = [(gateway, state) for gateway in self.gateways() for state in ("queued", "dispatched")]
        return int(sum(gateway.gauge("stageline_gateway_in_flight", state=state) for gateway, state in ways))

    # --- start, heal, measure -------------------------------------------------------------------------------

    def _start(self) -> None:
        logs = self.folder / "logs"
        logs.mkdir(parents=True)
        for name in COORDINATORS if self.kind == "paired" else COORDINATORS[:1]:
            port = free_port()
            self._add(name, "coordinator", {"plan_port": 0, "blob_port": 0, "rejoin_ms": 1500, "port": port})
            self.revive(name)
        for name, role, settings in (
            *((name, "gateway", {**GATEWAY, "name": name, "port": free_port()}) for name in self._gateway_names()),
            *((f"stage-{i}", "stage", {"name": f"stage-{i}", "threads": 1}) for i in range(NODES)),
        ):
            self._add(name, role, {**settings, **self._links(name)})  # type: ignore[arg-type]
            self.services[name].start()
        for name in self.services:
            self._wait_ready(name)
        if self.proxied:
            host, port = self.gateway.address.rsplit(":", 1)
            self.proxies["client"] = self._thread.proxy((host, int(port)), "client")
        self._register()
        self._await_health()

    def _gateway_names(self) -> tuple[str, ...]:
        return GATEWAYS if self.kind == "two gateways" else GATEWAYS[:1]

    def _add(self, name: str, role: ServiceRole, settings: Mapping[str, Any]) -> None:
        """A service with a disk, and a clock where the kind of cluster asks for it."""
        self._stack.enter_context(small_disk(self.folder / f"disk-{name}", self._disk_bytes))
        own = dict(settings)
        if role == "coordinator":
            own["data_dir"] = self.folder / f"disk-{name}" / "state"
            own |= self._between(name, own["port"]) if self.kind == "paired" else {}
        elif role == "stage":
            own |= {"cache_dir": self.cache(name), "memory_bytes": 1 << 30}
        elif self.kind == "journaled":
            own |= {"journal": self.journal, "answer_keep_s": KEEP_S, "answer_keep_bytes": KEEP_BYTES}
        environ = clock.environ(self.clock(name)) if self.kind == "clocked" else {}
        self.services[name] = Service(name, role, self.folder / "logs", own, environ)

    def clock(self, name: str) -> Path:
        """The file that moves a service's wall clock."""
        return self.folder / f"{name}.clock"

    def _links(self, name: str) -> Mapping[str, Any]:
        """The settings that lead a service's links through proxies of its own."""
        control = self.control
        if not self.proxied:
            return {"coordinator": control}
        port = free_port()
        data = self.proxies[f"data:{name}"] = self._thread.proxy(("127.0.0.1", port), f"data:{name}")
        if self.kind == "wired":
            return {"coordinator": control, "data_port": port, "data_address": data.address}
        host, control_port = control.removeprefix("tcp://").rsplit(":", 1)
        link = self.proxies[f"control:{name}"] = self._thread.proxy((host, int(control_port)), f"control:{name}")
        return {"coordinator": link.address, "data_port": port, "data_address": data.address}

    def _between(self, name: str, port: int) -> dict[str, Any]:
        """The settings that lead what two coordinators say to each other through proxies."""
        proxy = self.proxies[f"peer:{name}"] = self._thread.proxy(("127.0.0.1", port), f"peer:{name}")
        leader = self.proxies[f"peer:{COORDINATORS[0]}"]
        return {"control_address": proxy.address, **({"standby_of": leader.address} if proxy is not leader else {})}

    def decoy(self) -> Proxy:
        """A proxy that no link of the cluster passes."""
        if "decoy" not in self.proxies:
            self.proxies["decoy"] = self._thread.proxy(("127.0.0.1", free_port()), "decoy")
        return self.proxies["decoy"]

    def revive(self, name: str) -> None:
        """Start a service again, under its old addresses."""
        self.services[name].kill()
        self.services[name].start()
        self._wait_ready(name)

    def _wait_ready(self, name: str) -> None:
        problem = wait_until(f"{name} is up", self.services[name].ready, READY_S)
        if problem:
            raise RuntimeError(f"{problem}; {self.services[name].last_line()}")

    def _register(self) -> None:
        store, manifest = import_marked(self.folder / "import")
        self.manifest = store.put_bytes(canonical_json(manifest.to_json()))
        with self.admin() as admin:
            admin.upload(store, [*manifest.blobs(), self.manifest])
            admin.put_model(self.manifest)

    def heal(self) -> str:
        """Undo every fault and start what is dead; empty when all is well again, else what is not."""
        self._end_decoys()
        for proxy in self.proxies.values():
            proxy.heal()
        for name in self.services if self.kind == "clocked" else ():
            clock.move(self.clock(name), 0.0)
        for service in self.services.values():
            if service.running:
                service.signal(signal.SIGCONT)
        return wait_until("the cluster is whole again", lambda: self._revived() and self._healthy(), READY_S)

    def _revived(self) -> bool:
        """Start what is dead; what gave up during the fault may have taken a while to end."""
        for service in self.services.values():
            if not service.running:
                self.revive(service.name)
        return True

    def _await_health(self) -> str:
        return wait_until("the cluster is whole again", self._healthy, READY_S)

    def _healthy(self) -> bool:
        """Every worker is alive and one that the planner may use, and a plan over two of them at least serves, each
        stage of which has the standbys that were asked for."""
        with contextlib.suppress(ClusterError, OSError), self.admin() as admin:
            rows, plan = admin.nodes().nodes, admin.plan().model(NAME)
            usable = json.loads(admin.problem())["nodes"]
            alive = [row for row in rows if row.state == "alive" and row.executors]
            served = plan is not None and plan.status == "serving" and len(plan.stages) >= 2
            served = served and all(stage.standbys and not stage.exposed for stage in plan.stages)
            row = admin.nodes().standby
            paired = self.kind != "paired" or (row is not None and (row.state, row.behind) == ("alive", 0))
            return len(alive) == len(usable) == NODES and served and paired and self._ready()
        return False

    def _ready(self) -> bool:
        return all(service.gauge("stageline_stage_joined") == 1 for service in self._stages())

    def _stages(self) -> list[Service]:
        return [service for service in self.services.values() if service.role == "stage"]

    def figures(self) -> dict[str, Figures]:
        """What each service holds; of two coordinators both together, as the one that leads holds more."""
        found = {name: service.figures() for name, service in self.services.items()}
        if self.kind == "paired":
            both = [found.pop(name) for name in COORDINATORS]
            found["coordinators"] = Figures(*(sum(one) for one in zip(*map(astuple, both), strict=True)))
        return found

    def settle(self) -> None:
        """Note what the services hold at rest, as the baseline of what follows."""
        self._baseline = self.figures()

    def above_baseline(self) -> list[str]:
        """What has not come back to it."""
        found = [f"{self.unanswered()} requests in flight at the gateway"] if self.unanswered() else []
        for service in self._stages():
            depth = service.gauge("stageline_stage_queue_depth")
            found += [f"{depth:g} batches in the queue of {service.name}"] if depth else []
        for name, now in self.figures().items():
            found += compare(name, self._baseline[name], now)
        return found


SLACK_DESCRIPTORS = 24
"""Connections that only an earlier plan needed are kept for two minutes; what leaks per request is far more."""

SLACK_THREADS = 3
SLACK_BYTES = 64 << 20


def compare(name: str, before: Figures, now: Figures) -> list[str]:
    """What a service holds now beyond what it held before and a little slack."""
    found = []
    if now.processes != before.processes:
        found.append(f"{name}: {now.processes} processes, {before.processes} before")
    if now.threads > before.threads + SLACK_THREADS:
        found.append(f"{name}: {now.threads} threads, {before.threads} before")
    if now.descriptors > before.descriptors + SLACK_DESCRIPTORS:
        found.append(f"{name}: {now.descriptors} descriptors, {before.descriptors} before")
    if now.resident_bytes > before.resident_bytes * 1.15 + SLACK_BYTES:
        found.append(f"{name}: {now.resident_bytes >> 20} MiB, {before.resident_bytes >> 20} before")
    return found


def stopped(pid: int) -> bool:
    """Whether the process is in state T."""
    stat = read_stat(pid)
    return stat is not None and stat.state == "T"


def dead(pid: int) -> bool:
    """Whether the process has ended."""
    stat = read_stat(pid)
    return stat is None or stat.dead


def all_dead(pids: Iterable[int]) -> bool:
    """Whether there are any, and all have ended."""
    return bool(found := list(pids)) and all(map(dead, found))


def all_stopped(pids: Iterable[int]) -> bool:
    """Whether there are any, and all are in state T."""
    return bool(found := list(pids)) and all(map(stopped, found))
