"""The planner as a child process: ``python -m stageline_coordinator.planner.worker [PARENT]``.

One JSON problem per line on stdin. A problem may carry an `id`, which its answers echo, and a `time_limit_s`. Each is
answered by lines on stdout: solutions with `final` false as they are found, each better or better proven than the one
before, then the last one again with `final` true; or ``{"id", "final": true, "error": {"code", "message"}}``. The
first one comes soon. A newer line on stdin cuts the work on an older problem short. Ends at EOF, and at once when the
process PARENT, the coordinator, is killed; a Ctrl-C at the terminal is the coordinator's to handle.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TextIO

from stageline.errors import ConfigError, StagelineError
from stageline.lifecycle import die_with_parent

from .fields import Field
from .problem import Problem
from .solve import improve

TIME_LIMIT_S = 10.0
READ_BYTES = 1 << 16


def main(arguments: Sequence[str] = ()) -> None:
    for parent in arguments:
        die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(Lines(sys.stdin.fileno()), sys.stdout)


class Lines:
    """Lines from a pipe, and whether there is already more than the one that was read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._ended = False

    def __iter__(self) -> Iterator[str]:
        while True:
            line, found, self._rest = self._rest.partition(b"\n")
            if found:
                yield line.decode(errors="replace")
                continue
            self._rest = line
            data = os.read(self._descriptor, READ_BYTES)
            if not data:
                self._ended = True
                return
            self._rest += data

    def waiting(self) -> bool:
        """Whether something newer has come, or the end."""
        return bool(self._rest) or self._ended or bool(select.select([self._descriptor], [], [], 0)[0])


def serve(source: Lines, sink: TextIO) -> None:
    """Answers line by line until `source` ends."""
    for line in source:
        for answer in answers(line, source.waiting) if line.strip() else ():
            sink.write(json.dumps(answer, allow_nan=False) + "\n")
            sink.flush()


def answers(line: str, outdated: Callable[[], bool]) -> Iterator[dict[str, object]]:
    """The answers to one line, the last one final; never raises, so that one bad problem does not end the child."""
    started = time.monotonic()
    name: object = None
    try:
        document = _parse(line)
        name = document.get("id") if isinstance(document, Mapping) else None
        problem, limit = Problem.from_json(document), _time_limit(document)
        answer: dict[str, object] = {}
        for solution in improve(problem, out_of_time=lambda: outdated() or time.monotonic() - started > limit):
            answer = replace(solution, solve_s=time.monotonic() - started).to_json()
            yield {"id": name, "final": False, **answer}
        yield {"id": name, **answer, "final": True, "solve_s": time.monotonic() - started}
    except StagelineError as error:
        yield _failure(name, error.code, error.message)
    except Exception as error:
        yield _failure(name, StagelineError.code, f"planner failed: {type(error).__name__}: {error}")


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ConfigError(f"document: not JSON ({error})") from None


def _time_limit(document: object) -> float:
    found = Field(document, "").optional("time_limit_s")
    return found.number() if found else TIME_LIMIT_S


def _failure(name: object, code: str, message: str) -> dict[str, object]:
    return {"id": name, "final": True, "error": {"code": code, "message": message}}


if __name__ == "__main__":
    main(sys.argv[1:])
