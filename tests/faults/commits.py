"""A coordinator that dies inside the commit of a plan: the kernel kills it as it asks for its database to be synced."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .events import Target, bystander, executor, victim_node
from .load import wait_until
from .rig import Rig, all_dead, dead

ATTACH_S = 10.0
TRACED = "fsync,fdatasync"


def lacking() -> str:
    """Why processes cannot be traced here; empty if they can."""
    return "" if shutil.which("strace") and os.geteuid() == 0 else "a kill inside a commit needs root and strace"


@dataclass(frozen=True)
class KilledInCommit:
    """An executor dies, and the coordinator when it commits the plan that does without."""

    seconds: float = 0.0
    kind: str = "kill in a commit"

    def aim(self, rig: Rig) -> Target:
        hit = executor(rig, victim_node(rig))
        pids = [rig.coordinator.pid, *hit.pids]
        return Target(f"coordinator and {hit.name}", hit.node, pids, notes=[str(rig.folder / "trace")])

    def decoy(self, rig: Rig) -> Target:
        target = bystander(rig)
        target.notes = [str(rig.folder / "decoy-trace")]
        return target

    def strike(self, rig: Rig, target: Target) -> None:
        out, victim = Path(target.notes[0]), target.pids[0]
        out.unlink(missing_ok=True)
        command = ["strace", "-f", "-o", str(out), "-e", f"trace={TRACED}", "-e", f"inject={TRACED}:signal=KILL"]
        tracer = subprocess.Popen([*command, "-p", str(victim)], stderr=subprocess.DEVNULL)
        try:
            wait_until("it is traced", lambda: _traced(victim), ATTACH_S)
            for pid in target.pids[1:]:
                os.kill(pid, signal.SIGKILL)
            wait_until("it dies", lambda: dead(victim) or not target.pids[1:], ATTACH_S)
        finally:
            _end(tracer)

    def proof(self, rig: Rig, target: Target) -> str:
        trace = Path(target.notes[0])
        said = [line for line in trace.read_text().splitlines() if "sync(" in line] if trace.exists() else []
        killed = said and all_dead(target.pids) and rig.coordinator.exit_code() == -signal.SIGKILL
        return f"it was killed in {said[0].split(None, 1)[1]}" if killed else ""

    def relent(self, rig: Rig, target: Target) -> None:
        if dead(rig.coordinator.pid):
            rig.revive("coordinator")


def _end(tracer: subprocess.Popen[bytes]) -> None:
    """It may wait for threads of the dead for ever, and then does not hear SIGTERM."""
    tracer.terminate()
    try:
        tracer.wait(ATTACH_S)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()


def _traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in status)
