"""The planner as a child process: ``python -m stageline_coordinator.planner.worker``.

One JSON problem per line on stdin, one JSON answer per line on stdout, in order. A problem may carry an `id`,
which its answer echoes: the solution's JSON with `solve_s`, or ``{"id", "error": {"code", "message"}}``. Ends at
EOF, that is, with the coordinator; a Ctrl-C at the terminal is the coordinator's to handle.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import replace
from typing import TextIO

from stageline.errors import ConfigError, StagelineError

from .problem import Problem
from .solve import solve


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin, sys.stdout)


def serve(source: TextIO, sink: TextIO) -> None:
    """Answers line by line until `source` ends."""
    for line in source:
        if line.strip():
            sink.write(json.dumps(answer(line), allow_nan=False) + "\n")
            sink.flush()


def answer(line: str) -> dict[str, object]:
    """One answer for one line; never raises, so that one bad problem does not end the child."""
    started = time.perf_counter()
    name: object = None
    try:
        try:
            document = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"document: not JSON ({error})") from None
        name = document.get("id") if isinstance(document, dict) else None
        solution = solve(Problem.from_json(document))
        solve_s = time.perf_counter() - started
        return {"id": name, **replace(solution, solve_s=solve_s).to_json()}
    except StagelineError as error:
        return _failure(name, error.code, error.message)
    except Exception as error:
        return _failure(name, StagelineError.code, f"planner failed: {type(error).__name__}: {error}")


def _failure(name: object, code: str, message: str) -> dict[str, object]:
    return {"id": name, "error": {"code": code, "message": message}}


if __name__ == "__main__":
    main()
