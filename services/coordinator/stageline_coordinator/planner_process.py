"""The planner's child process: JSON lines over pipes that never block the coordinator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .events import Solved, SolveFailed

SOLVE_S = 120.0
"""How long one problem may take before its child is given up."""

WARM_EVERY_S = 10.0
"""A child that died while nothing was asked is replaced so often at most."""

READ_BYTES = 1 << 16


class PlannerProcess:
    """One child, started by `warm` or when it is needed, and again after it died. A new problem outdates the last.

    It outlives who asks it: who stands by has one ready, and leaders number their problems alike, so what goes to the
    child bears numbers of its own.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._warm_at = 0.0
        self._problem = self._asked = 0
        self._until: float | None = None
        self._out = b""
        self._in = b""

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        return self._child.pid if self._child else None

    @property
    def readable(self) -> int | None:
        """Descriptor to wait on for answers."""
        return self._child.stdout.fileno() if self._child and self._child.stdout else None

    @property
    def writable(self) -> int | None:
        """Descriptor to wait on while a problem has not been written in full."""
        return self._child.stdin.fileno() if self._out and self._child and self._child.stdin else None

    def warm(self, now: float) -> None:
        """Have a child ready: its start takes longer than mending a plan. Where none can be started `solve` says so."""
        if self._child is None and now >= self._warm_at:
            self._warm_at = now + WARM_EVERY_S
            with suppress(OSError):
                self._ensure_child()

    def solve(self, problem: int, document: Mapping[str, Any], now: float) -> SolveFailed | None:
        """Hand a problem over; fails only when no child can be started."""
        try:
            self._ensure_child()
        except OSError as error:
            return SolveFailed(problem, f"the planner cannot be started: {error.strerror}")
        self._problem, self._until = problem, now + SOLVE_S
        self._asked += 1
        self._out += json.dumps({"id": self._asked, **document}, allow_nan=False).encode() + b"\n"
        self.write()
        return None

    def forget(self) -> None:
        """Nobody waits for an answer any more: the child stops looking for it, and is there for the next problem."""
        self._asked, self._until = self._asked + 1, None
        if self._child is not None:
            self._out += b"\n"
            self.write()

    def write(self) -> None:
        """Write as much of the problem as the pipe takes."""
        descriptor = self.writable
        if descriptor is None:
            return
        with suppress(BlockingIOError, BrokenPipeError):  # a dead child shows when its answer is read
            self._out = self._out[os.write(descriptor, self._out) :]

    def read(self) -> list[Solved | SolveFailed]:
        """The answers that have arrived; a child that died answers with a failure."""
        descriptor = self.readable
        if descriptor is None:
            return []
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return self._abandon("the planner's process ended")
        *lines, self._in = (self._in + data).split(b"\n")
        return [answer for line in lines if (answer := self._parse(line))]

    def expire(self, now: float) -> list[Solved | SolveFailed]:
        """Give up a child that takes too long."""
        late = self._until is not None and now >= self._until
        return self._abandon(f"the planner took longer than {SOLVE_S:g} s") if late else []

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        self._out = self._in = b""
        self._until = None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()

    def _abandon(self, reason: str) -> list[Solved | SolveFailed]:
        waiting = self._until is not None
        self.close()
        return [SolveFailed(self._problem, reason)] if waiting else []

    def _parse(self, line: bytes) -> Solved | SolveFailed | None:
        try:
            answer = json.loads(line)
            number, error = answer["id"], answer.get("error")
        except (ValueError, KeyError, AttributeError, TypeError):
            waiting = self._until is not None
            return SolveFailed(self._problem, "the planner's answer is not what was agreed") if waiting else None
        if number != self._asked:
            return None
        final = bool(answer.get("final", True))
        self._until = None if final else self._until
        if isinstance(error, dict):
            return SolveFailed(self._problem, str(error.get("message")))
        return Solved(self._problem, answer, final)

    def _ensure_child(self) -> None:
        if self._child is not None:
            return
        command = [sys.executable, "-m", "stageline_coordinator.planner.worker", str(os.getpid())]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=False
        )
        for descriptor in (self.readable, self._child.stdin.fileno() if self._child.stdin else None):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
