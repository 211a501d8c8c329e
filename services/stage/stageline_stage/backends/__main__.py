"""The child that compiles one stage: a `Job` comes on stdin as JSON, its `Outcome` goes to stdout."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from stageline.errors import StagelineError
from stageline.lifecycle import die_with_parent
from stageline_stage.backends.job import Job, Outcome

LOWEST_PRIORITY = 19
RUNS, FEWER_RUNS, ENOUGH_S = 9, 3, 1.0


def main() -> None:
    """Whatever a backend raises is the outcome, too."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    die_with_parent(job.parent)
    os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)
    answer = os.dup(sys.stdout.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # compilers like to talk
    try:
        outcome = work(job)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        ours = isinstance(error, StagelineError)
        outcome = Outcome(error=reason if ours else f"it cannot be compiled ({type(error).__name__}: {reason})")
    os.write(answer, msgspec.json.encode(outcome))
    os._exit(0)  # a compiler's threads may not end well, and nobody needs them any more


def work(job: Job) -> Outcome:
    """Compile, compare with torch, measure both."""
    import torch

    from stageline_stage.backends import samples
    from stageline_stage.backends.base import Source
    from stageline_stage.backends.judge import deviation
    from stageline_stage.backends.table import BACKENDS
    from stageline_stage.executor.measure import read_manifest
    from stageline_stage.graph.rebuild import load_stage
    from stageline_stage.tensorfile import load_tensor

    torch.set_num_threads(max(1, job.threads))
    torch.set_grad_enabled(False)
    manifest = read_manifest(Path(job.manifest))
    tensors = {sha: load_tensor(Path(name)) for sha, name in job.tensors.items()}
    module = load_stage([Path(name).read_bytes() for name in job.graphs], tensors)
    inputs, outputs = manifest.blocks[job.start].inputs, manifest.blocks[job.end - 1].outputs
    made = samples.make(module, inputs, outputs, manifest.dims)
    backend, folder = BACKENDS[job.backend], Path(job.folder)
    backend.compile(Source(module, inputs, outputs, made), job.precision, folder)
    call = backend.load(folder, outputs, job.precision, job.threads)
    for one in made:
        found = deviation(call(*one.inputs), module(*one.inputs), manifest.tolerance)
        if found:
            return Outcome(error=f"{found} (sizes {dict(one.dims)})")
    eager_s, seconds = measured((module.forward, call), made[-1].inputs, job.threads)
    return Outcome(eager_s, seconds)


def measured(calls: Sequence[Callable[..., Any]], inputs: Sequence[Any], threads: int) -> list[float]:
    """The median seconds of each, which take turns.

    With one thread it is processor time, in which whatever else the box does has no part.
    """
    clock = time.process_time if threads <= 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in calls]
    begun = time.monotonic()
    while len(times[0]) < FEWER_RUNS or (len(times[0]) < RUNS and time.monotonic() - begun < ENOUGH_S):
        for call, spent in zip(calls, times, strict=True):
            before = clock()
            call(*inputs)
            spent.append(clock() - before)
    return [statistics.median(spent) for spent in times]


if __name__ == "__main__":
    main()
