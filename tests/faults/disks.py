"""Disks that fill up: the coordinator's, a worker's own, and the gateway's with its journal."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from .damage import tensors
from .disk import empty, fill, is_full
from .events import Target, executor, victim_node
from .load import wait_until
from .rig import Rig, all_dead, dead
from .writing import refused_writes

SAID_S = 10.0


def decoy(rig: Rig) -> Target:
    """A directory on a disk that is large."""
    folder = rig.folder / "decoy-disk"
    folder.mkdir(exist_ok=True)
    return Target("a bystander's disk", "nobody", notes=[str(folder)])


@dataclass(frozen=True)
class FullDisk:
    """The coordinator's disk fills up, then it is asked to write a blob and a row."""

    seconds: float = 0.5
    kind: str = "disk full"

    def aim(self, rig: Rig) -> Target:
        return Target("the coordinator's disk", "", services=(rig.coordinator,), notes=[str(rig.state)])

    def decoy(self, rig: Rig) -> Target:
        return decoy(rig)

    def strike(self, rig: Rig, target: Target) -> None:
        fill(Path(target.notes[0]))
        target.notes += refused_writes(rig) if target.services else []
        fill(Path(target.notes[0]))  # what was half written is gone

    def proof(self, rig: Rig, target: Target) -> str:
        full = is_full(Path(target.notes[0]))
        return f"no byte is free; the coordinator says: {target.notes[1]}" if full and target.notes[1:] else ""

    def relent(self, rig: Rig, target: Target) -> None:
        empty(Path(target.notes[0]))


@dataclass(frozen=True)
class FullCache:
    """A worker's disk is full, its cache has lost its tensors, and its executor dies: the next one must fetch them."""

    seconds: float = 2.0
    kind: str = "worker's disk full"

    def aim(self, rig: Rig) -> Target:
        node = victim_node(rig)
        target = executor(rig, node)
        target.name, target.notes = f"the disk of {node}", [str(rig.cache(node))]
        return target

    def decoy(self, rig: Rig) -> Target:
        return decoy(rig)

    def strike(self, rig: Rig, target: Target) -> None:
        target.before["lines"] = sum(len(_told(service.log)) for service in target.services)
        for pid in target.pids:
            os.kill(pid, signal.SIGKILL)
        wait_until("what it had mapped is free", lambda: all(dead(pid) for pid in target.pids), SAID_S)
        for blob in tensors(Path(target.notes[0])):
            blob.unlink()
        fill(Path(target.notes[0]))
        wait_until("it says so", lambda: not target.services or self._said(target), SAID_S)
        fill(Path(target.notes[0]))  # what it had fetched of a tensor is gone

    def proof(self, rig: Rig, target: Target) -> str:
        if target.services:
            fill(Path(target.notes[0]))  # what was being fetched, or an heir had mapped, may be gone
        told = self._said(target)
        proven = told and is_full(Path(target.notes[0])) and all_dead(target.pids)
        return f"no byte is free, and {target.name.split()[-1]} says: {told[-1]}" if proven else ""

    @staticmethod
    def _said(target: Target) -> list[str]:
        told = [line for service in target.services for line in _told(service.log)]
        return told[target.before.get("lines", 0) :]

    def relent(self, rig: Rig, target: Target) -> None:
        empty(Path(target.notes[0]))


def _told(log: Path) -> list[str]:
    return [line[:300] for line in log.read_text(errors="replace").splitlines() if "disk is full" in line]


@dataclass(frozen=True)
class FullJournal:
    """The disk of the gateway's journal is full: what is not on it may not be accepted."""

    seconds: float = 0.5
    kind: str = "journal's disk full"

    def aim(self, rig: Rig) -> Target:
        return Target("the journal's disk", "", services=(rig.gateway,), notes=[str(rig.journal)])

    def decoy(self, rig: Rig) -> Target:
        return decoy(rig)

    def strike(self, rig: Rig, target: Target) -> None:
        fill(Path(target.notes[0]))

    def proof(self, rig: Rig, target: Target) -> str:
        told = [line for service in target.services for line in service.log.read_text().splitlines()]
        told = [line[:300] for line in told if "journal cannot be written" in line]
        return f"no byte is free; the gateway says: {told[-1]}" if told and is_full(Path(target.notes[0])) else ""

    def relent(self, rig: Rig, target: Target) -> None:
        empty(Path(target.notes[0]))
