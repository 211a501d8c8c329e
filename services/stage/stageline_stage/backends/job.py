"""Compiling a stage in a child process: what the child is told, what it answers, how it is started and ended."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from dataclasses import dataclass

import msgspec

from stageline_stage.backends.artifacts import Report

COMMAND = (sys.executable, "-m", "stageline_stage.backends")
PATIENCE_S = 1800.0
"""A child that takes longer is killed. It runs at the lowest priority, beside everything else."""

MAX_REASON = 300


class Job(msgspec.Struct, frozen=True):
    """Compile blocks [start, end) of a manifest into `folder`.

    `manifest`, `graphs` (in order) and `tensors` (by SHA-256) are files, `parent` is the pid of the process with which
    the child ends.
    """

    backend: str
    precision: str
    manifest: str
    start: int
    end: int
    graphs: tuple[str, ...]
    tensors: dict[str, str]
    folder: str
    threads: int
    parent: int


class Outcome(msgspec.Struct, frozen=True):
    """What came of it: seconds at nominal sizes for torch and the backend; an `error` says that it is of no use."""

    eager_s: float = 0.0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Failed:
    """Why there is no compiled stage; `lasting` if it would be so next time."""

    reason: str
    lasting: bool = True


class Interrupted(Exception):  # noqa: N818  nothing went wrong
    """The child was ended because nobody wants the stage any more."""


def run(job: Job, wake: int) -> Report | Failed:
    """Have a child compile, and wait for it.

    Raises `Interrupted`, the child ended, when the descriptor `wake` gets readable. The thread that calls this must
    live as long as the child, which the kernel ends with it.
    """
    child = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with child:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(msgspec.json.encode(job))
            child.stdin.close()
            ready, _, _ = select.select([child.stdout.fileno(), wake], [], [], PATIENCE_S)
            if wake in ready:
                raise Interrupted
            if not ready:
                return Failed(f"compiling took longer than {PATIENCE_S:g} s")
            said = child.stdout.read()
            child.wait()
        except BrokenPipeError:  # it ended before it had read anything
            said = b""
            child.wait()
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
    return _judged(job, said, child.returncode)


def _judged(job: Job, said: bytes, code: int) -> Report | Failed:
    try:
        outcome = msgspec.json.decode(said, type=Outcome)
    except msgspec.DecodeError:
        how = f"ended by signal {-code}" if code < 0 else f"exited with code {code}"
        return Failed(f"the compiler {how}", lasting=code != -signal.SIGKILL)  # by which the kernel frees memory
    if outcome.error:
        return Failed(outcome.error[:MAX_REASON])
    return Report(backend=job.backend, precision=job.precision, eager_s=outcome.eager_s, seconds=outcome.seconds)
