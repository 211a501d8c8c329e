"""What the figures of a run depend on, in words; without a name of the machine or of a place on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from stageline import __version__

CPUINFO = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """The machine that this process runs on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "stageline": __version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()
