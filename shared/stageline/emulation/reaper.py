"""`python -m stageline.emulation.reaper RUN FOLDER`: removes an emulation whose process has been killed.

A child of that process in a session of its own, where no Ctrl-C reaches it, with a pipe as its stdin. The end of the
pipe means that the parent is gone; a byte before it, that the parent has tidied up itself.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from stageline.emulation.engine import Engine
from stageline.emulation.runs import LATE_S, remove_run

DONE = b"."


class Reaper:
    """The parent's end."""

    def __init__(self, run: str, folder: Path) -> None:
        command = [sys.executable, "-m", "stageline.emulation.reaper", run, str(folder)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def dismiss(self) -> None:
        """All is removed."""
        self._child.communicate(DONE)


def main(run: str, folder: str) -> None:
    """Wait, and remove."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.stdin.buffer.read(1) == DONE:
        return
    shutil.rmtree(folder, ignore_errors=True)
    remove_run(Engine(), run, LATE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
