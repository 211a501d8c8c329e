"""Looking at processes and signalling their groups, by /proc.

A process is named by its pid *and* its start time, so that a pid that the kernel gave to somebody else is never taken
for ours. Each service leads a session and process group of its own: its children die with it by one `killpg`.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"


@dataclass(frozen=True)
class ProcessStat:
    """What /proc/PID/stat says; `started` is in clock ticks since the machine's start."""

    pid: int
    state: str
    group: int
    started: int

    @property
    def dead(self) -> bool:
        """Ended, though its parent may not have noticed yet (a zombie)."""
        return self.state in "ZX"


def boot_id() -> str:
    """Differs after every start of the machine; empty where unknown."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def read_stat(pid: int) -> ProcessStat | None:
    """The process's status, or None if there is none of that pid."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command may hold spaces and parentheses: the fields start after its last one.
    rest = text.rpartition(")")[2].split()
    return ProcessStat(pid=pid, state=rest[0], group=int(rest[2]), started=int(rest[19]))


def is_running(pid: int, started: int) -> bool:
    """Whether the very process that had `pid` and began at `started` still runs."""
    stat = read_stat(pid)
    return stat is not None and stat.started == started and not stat.dead


def group_members(leader: int, started: int) -> list[ProcessStat]:
    """Live processes of the group that `leader` (begun at `started`) made; the leader itself may be gone."""
    stat = read_stat(leader)
    if stat is not None and stat.started != started:
        return []  # the kernel reuses a pid only after the last member of its group has ended
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    found = (read_stat(pid) for pid in pids)
    return [s for s in found if s is not None and s.group == leader and s.started >= started and not s.dead]


def signal_group(leader: int, started: int, number: signal.Signals) -> bool:
    """Send a signal to every process of the group; False if none was left."""
    if not group_members(leader, started):
        return False
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True


def signal_process(pid: int, started: int, number: signal.Signals) -> bool:
    """Send a signal to one process; False if it is gone."""
    if not is_running(pid, started):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
