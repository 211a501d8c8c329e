"""A control group of one's own for one process: less processor time, or less memory. Linux, root."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
REMOVE_S = 5.0


def lacking() -> str:
    """Why groups cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "control groups need root"
    try:
        for controller in ("cpu", "memory"):
            Group(controller).remove()
    except OSError as error:
        return f"control groups cannot be made here ({error.strerror})"
    return ""


class Group:
    """Version 1 has a tree per controller, version 2 one for all."""

    def __init__(self, controller: str) -> None:
        self._old = (ROOT / controller).is_dir()
        if not self._old:
            (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
        self._path = (ROOT / controller if self._old else ROOT) / f"stageline-faults-{uuid.uuid4().hex[:8]}"
        self._path.mkdir()

    def limit_cpu(self, share: float) -> None:
        """At most this share of one processor."""
        quota = round(PERIOD_US * share)
        if self._old:
            (self._path / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (self._path / "cpu.max").write_text(f"{quota} {PERIOD_US}")

    def limit_memory(self, nbytes: int) -> None:
        """At most so many bytes beyond what its processes hold when they enter."""
        name = "memory.limit_in_bytes" if self._old else "memory.max"
        (self._path / name).write_text(str(nbytes))

    def enter(self, pid: int) -> None:
        """Move a process into the group."""
        (self._path / "cgroup.procs").write_text(str(pid))

    def count(self, name: str) -> int:
        """A counter of the group: "nr_throttled" or "oom_kill"."""
        files = {"nr_throttled": ("cpu.stat", "cpu.stat"), "oom_kill": ("memory.oom_control", "memory.events")}
        text = (self._path / files[name][0 if self._old else 1]).read_text()
        return next((int(line.split()[1]) for line in text.splitlines() if line.split()[0] == name), 0)

    def remove(self) -> None:
        """Give its processes back to the root group and remove it."""
        parent = self._path.parent / "cgroup.procs"
        for pid in (self._path / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                parent.write_text(pid)
        deadline = time.monotonic() + REMOVE_S
        while True:
            try:
                self._path.rmdir()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
