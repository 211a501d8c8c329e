"""What a container has used, read at once from where the kernel keeps it: Docker's own figures take a second each.

Files: cgroups(7), https://docs.kernel.org/admin-guide/cgroup-v1/ and cgroup-v2.html, proc_pid_net(5). What cannot be
read counts as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True)
class Usage:
    """Since the container started; memory: now, without file pages that the kernel would give back.

    `throttled_s`: how long its quota kept its threads waiting, added up. Bytes are of all its interfaces but loopback.
    """

    cpu_s: float = 0.0
    throttled_s: float = 0.0
    memory_bytes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


def read_usage(pid: int, root: Path = ROOT) -> Usage:
    """Of the container whose first process is `pid`."""
    cpu, account, memory = (_cgroup(pid, root, name) for name in ("cpu", "cpuacct", "memory"))
    stat, kept = _pairs(cpu / "cpu.stat"), _pairs(memory / "memory.stat")
    nanoseconds = _number(_text(account / "cpuacct.usage")) or 1000 * stat.get("usage_usec", 0)
    throttled = stat.get("throttled_time", 0) or 1000 * stat.get("throttled_usec", 0)
    resident = _number(_text(memory / "memory.usage_in_bytes")) or _number(_text(memory / "memory.current"))
    spare = kept.get("total_inactive_file", kept.get("inactive_file", 0))
    sent, received = _passed(root / "proc" / str(pid) / "net/dev")
    return Usage(nanoseconds / 1e9, throttled / 1e9, max(0, resident - spare), sent, received)


def _cgroup(pid: int, root: Path, controller: str) -> Path:
    """The folder with the controller's files, of version 1 or 2."""
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc" / str(pid) / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mount = base / controllers if (base / controllers).is_dir() else base / controller
            return mount / path.lstrip("/")
        if not controllers and not (base / controller).is_dir():
            return base / path.lstrip("/")
    return base / "none"


def _passed(table: Path) -> tuple[int, int]:
    """Bytes (sent, received), from a table whose columns are those of /proc/net/dev."""
    sent = received = 0
    for line in _text(table).splitlines()[2:]:
        name, _, rest = line.partition(":")
        columns = rest.split()
        if name.strip() != "lo" and len(columns) > 8:
            sent, received = sent + int(columns[8]), received + int(columns[0])
    return sent, received


def _pairs(path: Path) -> dict[str, int]:
    return {key: _number(value) for key, _, value in (line.partition(" ") for line in _text(path).splitlines())}


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
