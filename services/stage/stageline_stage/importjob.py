"""`python -m stageline_stage.importjob FOLDER`: an import for a command line elsewhere, in a container of its own.

The other side is `stageline.importjob`; `stageline.importjob.words` is what both say. The model's code runs in a child,
so that this process has its say whatever becomes of that one, and so that it ends, with its container, as soon as
stdin does: then whoever asked has all that it wanted, or is gone.
"""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from stageline.importjob.words import OUT, SOURCE, Ended, Failed, Printed, Ready, Said, encode

CHILD = ["-m", "stageline_stage.importer.job"]
NEEDS = "torch"
LOOK_S = 0.1
PIECE_BYTES = 1 << 16
MAX_PRINTED = 4096
STDIN, STDOUT = 0, 1
KILLS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
"""Where the kernel counts those of this container that it killed for memory (cgroup 2 and 1)."""


def main() -> int:
    """Until stdin ends."""
    folder = Path(sys.argv[1])
    _say(Ready())
    request = _request()
    if request:
        for name in (SOURCE, OUT, "tmp"):
            (folder / name).mkdir(exist_ok=True)
        if importlib.util.find_spec(NEEDS) is None:
            _say(Failed("config", "the image has no torch: name a stage image by --image, not one of another service"))
            _say(Ended(1))
        elif not _work(folder, request):
            return 1
    while os.read(STDIN, PIECE_BYTES):
        pass
    return 0


def _request() -> bytes:
    """One line; empty if stdin ended before."""
    found = b""
    while not found.endswith(b"\n"):
        piece = os.read(STDIN, PIECE_BYTES)
        if not piece:
            return b""
        found += piece
    return found


def _work(folder: Path, request: bytes) -> bool:
    """Import, and pass on what the child says and prints; whether anybody still wants to know."""
    said, saying = os.pipe()
    printed, printing = os.pipe()
    command = [sys.executable, *CHILD, str(folder), str(saying)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=printing, stderr=printing, pass_fds=[saying]) as child:
        for one in (saying, printing):
            os.close(one)
        if child.stdin is not None:
            with suppress(BrokenPipeError):
                child.stdin.write(request)
                child.stdin.close()
        wanted = _follow(child, {said: _pass_on, printed: _tell})
        if not wanted:
            child.kill()
    for one in (said, printed):
        os.close(one)
    if wanted:
        _say(Ended(child.returncode, _killed_for_memory()))
    return wanted


def _follow(child: subprocess.Popen[bytes], pipes: Mapping[int, Callable[[bytes], None]]) -> bool:
    """Give each line that comes through a pipe to its function, until the child has ended; whether anybody listens."""
    rests, open_ = dict.fromkeys(pipes, b""), list(pipes)
    while open_ or child.poll() is None:
        ready, _, _ = select.select([STDIN, *open_], [], [], LOOK_S)
        if STDIN in ready and not os.read(STDIN, PIECE_BYTES):
            return False
        for pipe in (one for one in ready if one != STDIN):
            data = os.read(pipe, PIECE_BYTES)
            *lines, rest = (rests[pipe] + data).split(b"\n")
            rests[pipe] = rest[-PIECE_BYTES:]
            for line in lines:
                pipes[pipe](line)
            if not data:
                open_.remove(pipe)
        if not ready and child.poll() is not None:  # what it started holds its end of a pipe
            break
    for pipe, rest in rests.items():
        pipes[pipe](rest)
    return True


def _pass_on(line: bytes) -> None:
    os.write(STDOUT, line + b"\n")


def _tell(line: bytes) -> None:
    text = line.decode(errors="replace").rstrip().rpartition("\r")[2]  # of a progress bar, how it ended
    if text:
        _say(Printed(text[-MAX_PRINTED:]))


def _killed_for_memory() -> bool:
    for file in KILLS:
        with suppress(OSError):
            counts = dict(line.split(" ", 1) for line in file.read_text().splitlines() if " " in line)
            return int(counts.get("oom_kill", 0)) > 0
    return False


def _say(message: Said) -> None:
    os.write(STDOUT, encode(message))


if __name__ == "__main__":
    sys.exit(main())
