"""One service process that a test may kill and start again under the same name and addresses."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stageline.demo.fault import read_gauge
from stageline.embedded.launch import ADDRESS_KEY, MODULES
from stageline.embedded.processes import group_members, read_stat, signal_group
from stageline.embedded.state import ServiceRole

STOP_S = 20.0


@dataclass(frozen=True)
class Figures:
    """What a service holds, with its children."""

    processes: int = 0
    threads: int = 0
    descriptors: int = 0
    resident_bytes: int = 0


@dataclass
class Service:
    """Settings become flags; `environ` is added to the environment. `started` counts starts."""

    name: str
    role: ServiceRole
    folder: Path
    settings: Mapping[str, Any]
    environ: Mapping[str, str] = field(default_factory=dict)
    started: int = 0
    child: subprocess.Popen[bytes] | None = None
    _ready: dict[str, Any] = field(default_factory=dict)
    _began: int = 0

    @property
    def log(self) -> Path:
        """Everything that it ever logged."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Of the process started last."""
        assert self.child is not None
        return self.child.pid

    @property
    def address(self) -> str:
        """The address by which it is reached, from its ready file."""
        return str(self._ready[ADDRESS_KEY[self.role]])

    @property
    def http(self) -> str:
        """Its HTTP address."""
        return str(self._ready["http"])

    @property
    def ready_info(self) -> Mapping[str, Any]:
        """Its whole ready file."""
        return self._ready

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.child is not None and self.child.poll() is None

    def start(self) -> None:
        """Start it as the leader of a session of its own."""
        self.started += 1
        ready = self._ready_file()
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", MODULES[self.role], "--ready-file", str(ready), "--http-port", "0"]
        for key, value in self.settings.items():
            command += [f"--{key.replace('_', '-')}", str(value)]
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                env={**os.environ, **self.environ},
            )  # fmt: skip
        stat = read_stat(self.child.pid)
        self._began = stat.started if stat else 0

    def ready(self) -> bool:
        """Whether its ready file is there. Raises `RuntimeError` if the process has ended."""
        if not self.running:
            raise RuntimeError(f"{self.name} ended with {self.exit_code()}: {' / '.join(self._last_lines(3))}")
        if self._ready_file().exists():
            self._ready = json.loads(self._ready_file().read_text())
        return self._ready_file().exists()

    def exit_code(self) -> int | None:
        """As `Popen.poll`."""
        return self.child.poll() if self.child is not None else None

    def last_line(self) -> str:
        """The end of its log."""
        return "".join(self._last_lines(1))

    def _last_lines(self, count: int) -> list[str]:
        return [line[:300] for line in self.log.read_text(errors="replace").strip().splitlines()[-count:]]

    def pids(self) -> list[int]:
        """Its live processes, children included."""
        return [member.pid for member in group_members(self.pid, self._began)] if self.child is not None else []

    def signal(self, number: signal.Signals) -> None:
        """Signal it with its children."""
        signal_group(self.pid, self._began, number)

    def kill(self) -> None:
        """End it with its children, whatever state they are in."""
        if self.child is not None:
            self.signal(signal.SIGKILL)
            self.child.wait(STOP_S)

    def gauge(self, name: str, **labels: str) -> float:
        """One of its metrics, 0 where it is not listed."""
        return read_gauge(self.http, name, labels)

    def figures(self) -> Figures:
        """What it holds now."""
        pids = self.pids()
        page = resource.getpagesize()
        threads = descriptors = resident = 0
        for pid in pids:
            proc = Path("/proc") / str(pid)
            try:
                threads += len(list((proc / "task").iterdir()))
                descriptors += len(list((proc / "fd").iterdir()))
                resident += int((proc / "statm").read_text().split()[1]) * page
            except OSError:
                continue
        return Figures(len(pids), threads, descriptors, resident)

    def _ready_file(self) -> Path:
        return self.folder / f"{self.name}.ready.json"
