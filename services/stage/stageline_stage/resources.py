"""What this box has: CPU, memory, quota, read from /proc and the cgroup files (v2 and v1). No torch here.

Files: https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
and proc(5). Whatever cannot be read counts as "no limit".
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
UNLIMITED_BYTES = 1 << 60
"""The v1 files say "no limit" with a number near 2**63."""


def cpu_name(root: Path = ROOT) -> str:
    """The CPU's model name, or the machine type where the kernel gives none."""
    keys = ("model name", "Model", "Hardware")
    lines = [line.partition(":") for line in _text(root / "proc/cpuinfo").splitlines()]
    found = {key.strip(): value.strip() for key, _, value in lines}
    return next((found[key] for key in keys if found.get(key)), platform.machine())


def cpu_features(root: Path = ROOT) -> list[str]:
    """The instructions that the CPU has, by the kernel's names, sorted; empty where it gives none."""
    lines = [line.partition(":") for line in _text(root / "proc/cpuinfo").splitlines()]
    return next((sorted(value.split()) for key, _, value in lines if key.strip() in ("flags", "Features")), [])


def available_bytes(root: Path = ROOT) -> int:
    """Memory in bytes that this process and its children may use: what is free, and what the cgroups leave."""
    limits = [_meminfo(root, "MemAvailable")]
    for folder in _cgroups(root, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most = _number(folder / limit)
            if 0 <= most < UNLIMITED_BYTES:
                limits.append(max(0, most - max(0, _number(folder / used) - _reclaimable(folder))))
    return min(limit for limit in limits if limit >= 0)


def cpu_quota(root: Path = ROOT) -> float:
    """CPUs that the cgroups allow (1.5: one and a half); 0.0 without a limit."""
    quotas = []
    for folder in _cgroups(root, "cpu"):
        limit, _, period = _text(folder / "cpu.max").partition(" ")
        if not limit:
            limit, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if limit.strip().isdigit() and period.strip().isdigit():
            quotas.append(int(limit) / int(period))
    return min(quotas, default=0.0)


def process_state(pid: int, root: Path = ROOT) -> str:
    """The state letter of a process (T: stopped, Z: ended but not reaped), "" if it is gone."""
    return _text(root / "proc" / str(pid) / "stat").rpartition(")")[2].strip()[:1]


def resident_bytes(pid: int, root: Path = ROOT) -> int:
    """Resident memory of a process in bytes, 0 if it is gone."""
    for line in _text(root / "proc" / str(pid) / "status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of our cgroup and its ancestors, for one controller, as far as they are visible."""
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and controller not in names:
            continue
        mount = base / controllers if controllers and (base / controllers).is_dir() else base / controller
        top = mount if controllers else base
        inside = PurePosixPath(path.lstrip("/"))
        for part in (inside, *inside.parents):
            if ".." not in part.parts and (top / part).is_dir():
                yield top / part


def _reclaimable(folder: Path) -> int:
    """File pages counted as used that the kernel would give back."""
    for line in _text(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _meminfo(root: Path, key: str) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else -1


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
