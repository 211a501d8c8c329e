"""Commands as a user types them: each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageline.embedded.processes import read_stat

TIMEOUT_S = 120.0
MAIN = "import sys; from stageline.cli import main; main(sys.argv[1:])"


@dataclass
class Shell:
    """Runs commands with state, data and caches of their own."""

    home: Path

    @property
    def data_dir(self) -> Path:
        return self.home / "cluster"

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STAGELINE_")}
        homes = {f"XDG_{name}_HOME": str(self.home / name.lower()) for name in ("STATE", "DATA", "CACHE")}
        return {**kept, **homes}

    def run(self, *arguments: str, code: int = 0, given: str | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *arguments],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=self.environ, cwd=self.home,
            input=given,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def up(self, *arguments: str) -> Any:
        return self.json("up", "--nodes", "2", "--data-dir", str(self.data_dir), "--detach", *arguments)


TINY = """
import torch

def make():
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(6)))
    return net, (torch.zeros(2, 8),)
"""
"""A factory of the user's own, for a file in the directory where the command runs."""


def lives(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and not stat.dead
