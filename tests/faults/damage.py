"""Faults of disks, databases, memory and processors."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from . import cgroup
from .events import Target, bystander, executor, victim_node
from .load import wait_until
from .rig import Rig, all_dead
from .writing import refused_writes

LARGE_BYTES = 100_000
EXIT_S = 30.0
DATABASE = "coordinator.sqlite3"


def intact(blob: Path) -> bool:
    """Whether a blob's bytes are those that its name promises."""
    return hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


@dataclass(frozen=True)
class BadCache:
    """Every tensor in the victim's cache is damaged, then its executor dies: the next one must read them.

    "truncate under it": nobody kills the executor, but the files end under its mapping of them (SIGBUS).
    """

    how: Literal["flip", "truncate", "truncate under it"]
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        return f"cache {self.how}"

    def aim(self, rig: Rig) -> Target:
        node = victim_node(rig)
        agent = rig.services[node].pid
        executors = [pid for pid in rig.services[node].pids() if pid != agent]
        return Target(f"cache of {node}", node, executors, notes=[str(rig.cache(node))])

    def decoy(self, rig: Rig) -> Target:
        folder = rig.folder / "decoy-cache"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "00").mkdir(parents=True)
        (folder / "00" / ("00" * 32)).write_bytes(bytes(2 * LARGE_BYTES))
        return Target("a bystander's cache", "nobody", notes=[str(folder)])

    def strike(self, rig: Rig, target: Target) -> None:
        for blob in tensors(Path(target.notes[0])):
            with blob.open("r+b") as file:
                if self.how.startswith("truncate"):
                    file.truncate(blob.stat().st_size // 2)
                else:
                    file.seek(rig.random.randrange(blob.stat().st_size))
                    byte = file.read(1)
                    file.seek(-1, os.SEEK_CUR)
                    file.write(bytes([byte[0] ^ 1 << rig.random.randrange(8)]))
            target.notes.append(str(blob))
        for pid in target.pids if self.how != "truncate under it" else ():
            os.kill(pid, signal.SIGKILL)

    def proof(self, rig: Rig, target: Target) -> str:
        damaged = [Path(path) for path in target.notes[1:]]
        gone = bool(damaged) and all_dead(target.pids)
        return f"{len(damaged)} tensors of {target.name} were damaged, its executor is dead" if gone else ""

    def relent(self, rig: Rig, target: Target) -> None:
        """Left as it is: the worker has to see it."""


def tensors(cache: Path) -> list[Path]:
    """The large blobs of a cache."""
    return sorted(path for path in cache.glob("??/*") if path.stat().st_size > LARGE_BYTES)


@dataclass(frozen=True)
class LockedDatabase:
    """Somebody else holds SQLite's write lock while the coordinator has to write."""

    seconds: float = 0.0
    kind: str = "database locked"

    def aim(self, rig: Rig) -> Target:
        return Target("the coordinator's database", "", services=(rig.coordinator,), notes=[str(rig.state / DATABASE)])

    def decoy(self, rig: Rig) -> Target:
        return Target("a bystander's database", "nobody", notes=[str(rig.folder / "decoy.sqlite3")])

    def strike(self, rig: Rig, target: Target) -> None:
        holder = sqlite3.connect(target.notes[0], isolation_level=None, timeout=5.0)
        try:
            holder.execute("BEGIN EXCLUSIVE")
            target.notes += refused_writes(rig)
        finally:
            holder.close()

    def proof(self, rig: Rig, target: Target) -> str:
        return f"the coordinator could not write: {target.notes[1]}" if target.notes[1:] else ""

    def relent(self, rig: Rig, target: Target) -> None:
        """The lock went with its holder's connection."""


@dataclass(frozen=True)
class BadDatabase:
    """The coordinator dies, and its database is garbage when it comes back; then the file is restored."""

    seconds: float = 0.0
    kind: str = "database corrupted"

    def aim(self, rig: Rig) -> Target:
        return Target("the coordinator's database", "", services=(rig.coordinator,))

    def decoy(self, rig: Rig) -> Target:
        return Target("nothing", "nobody")

    def strike(self, rig: Rig, target: Target) -> None:
        for service in target.services:
            service.kill()
            shutil.copytree(rig.state, rig.folder / "backup", ignore=shutil.ignore_patterns("blobs"))
            for path in rig.state.glob(f"{DATABASE}*"):
                path.write_bytes(rig.random.randbytes(max(8192, path.stat().st_size)))
            service.start()
            wait_until("the coordinator gives up", lambda: not rig.coordinator.running, EXIT_S)

    def proof(self, rig: Rig, target: Target) -> str:
        code, said = rig.coordinator.exit_code(), rig.coordinator.last_line()
        return f"exit code {code}: {said}" if code not in (None, 0) and "database" in said else ""

    def relent(self, rig: Rig, target: Target) -> None:
        backup = rig.folder / "backup"
        if not backup.exists():
            return
        for path in rig.state.glob(f"{DATABASE}*"):
            path.unlink()
        for path in backup.glob(f"{DATABASE}*"):
            shutil.copy(path, rig.state)
        shutil.rmtree(backup)
        rig.revive("coordinator")


@dataclass(frozen=True)
class Throttled:
    """The victim's executor gets a twentieth of a processor, or another share, for a while."""

    seconds: float = 4.0
    share: float = 0.05
    kind: str = "slow"
    _groups: list[cgroup.Group] = field(default_factory=list, compare=False, repr=False)

    def aim(self, rig: Rig) -> Target:
        return executor(rig, victim_node(rig))

    def decoy(self, rig: Rig) -> Target:
        return bystander(rig)

    def strike(self, rig: Rig, target: Target) -> None:
        self._groups.append(cgroup.Group("cpu"))
        self._groups[0].limit_cpu(self.share)
        for pid in target.pids:
            self._groups[0].enter(pid)

    def proof(self, rig: Rig, target: Target) -> str:
        times = self._groups[0].count("nr_throttled") if self._groups else 0
        return f"{target.name} was held back {times} times" if times else ""

    def relent(self, rig: Rig, target: Target) -> None:
        self._groups.pop().remove()


@dataclass(frozen=True)
class Starved:
    """The kernel kills the victim's executor when it asks for memory beyond its control group's."""

    seconds: float = 0.0
    kind: str = "out of memory"
    _groups: list[cgroup.Group] = field(default_factory=list, compare=False, repr=False)

    def aim(self, rig: Rig) -> Target:
        return executor(rig, victim_node(rig))

    def decoy(self, rig: Rig) -> Target:
        return bystander(rig)

    def strike(self, rig: Rig, target: Target) -> None:
        self._groups.append(cgroup.Group("memory"))
        self._groups[0].limit_memory(4096)
        for pid in target.pids:
            self._groups[0].enter(pid)

    def proof(self, rig: Rig, target: Target) -> str:
        kills = self._groups[0].count("oom_kill") if self._groups else 0
        return f"the kernel killed {kills} processes of the group" if kills else ""

    def relent(self, rig: Rig, target: Target) -> None:
        self._groups.pop().remove()
