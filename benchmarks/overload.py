"""What is left of the throughput when more is asked for than can be computed.

Open-loop load (Poisson) at multiples of the capacity, which a closed loop measures in the same round; no client tries
again. *Goodput* counts the answers that came within the deadline, from the time at which the request was due. The last
case has company: connections that say nothing, and clients that ask without reading the answers.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from cluster import BenchCluster
from common import interleave, machine, progress, ratio, report, say, significant, summary
from stageline import Client
from stageline.bench.drive import Driver
from stageline.bench.inputs import Inputs, make_pool
from stageline.bench.recorder import Recorder
from stageline.bench.schedule import ClosedLoop, OpenLoop, Pacer, Window, poisson
from stageline.blobs import BlobStore
from stageline.client import InferResult
from stageline.plan import ModelPlan
from stageline.protocol import ClientHello, Describe, encode_frame
from stageline_stage.importer import Signature, import_module
from stageline_stage.zoo import resnet50

CAPACITY = "capacity"
MULTIPLES = {"1x": 1.0, "2x": 2.0, "3x": 3.0}
COMPANY = "1x in company"
CALLERS = 16
LIMIT = 4096
WARMUP_S = 1.0
IDLE, DEAF = 100, 4
"""Connections that say nothing, and that ask without reading."""


class Punctual(Recorder):
    """Counts the answers of the window that came in time."""

    def __init__(self, window: Window, deadline_s: float) -> None:
        super().__init__(window)
        self._measured, self._deadline_s = window, deadline_s
        self.in_time = 0

    def answered(self, intended: float, now: float, *, attempts: int = 1, shared: int = 1) -> None:
        """See `Recorder`."""
        super().answered(intended, now, attempts=attempts, shared=shared)
        self.in_time += intended in self._measured and now - intended <= self._deadline_s

    @property
    def goodput(self) -> float:
        """Answers in time per second."""
        return self.in_time / self._measured.duration_s


@dataclass
class Work:
    """Adds up what the worker spent on the answers that came within the window of a run that began at `begun`."""

    begun: float
    window: Window
    seconds: float = 0.0

    def ended(self, future: Future[InferResult]) -> None:
        """A request has its outcome."""
        if future.exception() is None and time.monotonic() - self.begun in self.window:
            timings = future.result().timings
            self.seconds += sum(stage.compute_us for stage in timings.stages) / 1e6 if timings else 0.0


@dataclass
class Load:
    """A served model under load; `capacity` is of the last closed loop, requests per second.

    `useful`: the part of the worker's time that went into answers, by case and run.
    """

    gateway: str
    plan: ModelPlan
    seconds: float
    deadline_s: float
    capacity: float = 0.0
    seed: int = 0
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    useful: dict[str, list[float]] = field(default_factory=dict)

    def closed(self) -> float:
        """Throughput of `CALLERS` who always wait for their answers."""
        window = Window(WARMUP_S, self.seconds)
        recorder = self._run(CAPACITY, ClosedLoop(CALLERS, window.end_s), window, deadline_s=60.0)
        self.capacity = recorder.figures().throughput_rps
        return self.capacity

    def open(self, name: str, multiple: float) -> float:
        """Goodput at a multiple of the capacity."""
        window = Window(WARMUP_S, self.seconds)
        self.seed += 1
        arrivals = poisson(multiple * self.capacity, self.seed)
        return self._run(name, OpenLoop(arrivals, LIMIT, window.end_s), window, self.deadline_s).goodput

    def in_company(self) -> float:
        """Goodput at the capacity, beside clients that cost nobody else anything."""
        with company(self.gateway):
            return self.open(COMPANY, 1.0)

    def _run(self, name: str, pacer: Pacer, window: Window, deadline_s: float) -> Punctual:
        recorder = Punctual(window, deadline_s)
        inputs = make_pool(self.plan.signature, 1, 0)
        work = Work(time.monotonic(), window)
        with Client(self.gateway, retry=None) as client:

            def submit(one: Inputs) -> Future[InferResult]:
                future = client.submit(self.plan.name, one, deadline_s=deadline_s)
                future.add_done_callback(work.ended)
                return future

            Driver(submit, inputs, pacer, recorder, window.end_s).run()
        self.useful.setdefault(name, []).append(work.seconds / window.duration_s)
        figures = recorder.figures()
        self.found.setdefault(name, []).append(
            {
                "asked_per_s": significant(figures.requests / window.duration_s, 4),
                "goodput_per_s": significant(recorder.goodput, 4),
                "p50_ms": significant(figures.latency.p50 * 1e3, 4),
                "p99_ms": significant(figures.latency.p99 * 1e3, 4),
                "errors": figures.errors,
                "unanswered": figures.unanswered,
            }
        )
        return recorder


@contextmanager
def company(gateway: str) -> Iterator[None]:
    """`IDLE` connections that only greet, and `DEAF` that ask what models there are and never read."""
    host, port = gateway.rsplit(":", 1)
    connections = [socket.create_connection((host, int(port))) for _ in range(IDLE + DEAF)]
    threads = [threading.Thread(target=_ask_on, args=(one,)) for one in connections[IDLE:]]
    try:
        for one in connections:
            one.sendall(b"".join(map(bytes, encode_frame(ClientHello(1)))))
        for thread in threads:
            thread.start()
        yield
    finally:
        for one in connections:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for one in connections:
            one.close()


def _ask_on(one: socket.socket) -> None:
    """Until the connection is closed; the gateway soon takes no more."""
    questions = b"".join(bytes(part) for number in range(1, 201) for part in encode_frame(Describe(number)))
    with suppress(OSError):
        while True:
            one.sendall(questions)


def summarised(load: Load, found: dict[str, list[float]]) -> dict[str, Any]:
    """What is reported: goodput, and the worker's time that went into answers, by the best of the same round.

    The latter also holds where the machine does other things at the same time, which make the worker slower.
    """
    rounds = len(found[CAPACITY])
    best = [max(found[name][i] for name in MULTIPLES) for i in range(rounds)]
    useful = {name: figures[-rounds:] for name, figures in load.useful.items()}
    most = [max(useful[name][i] for name in MULTIPLES) for i in range(rounds)]
    return {
        "goodput_per_s": {name: summary(figures) for name, figures in found.items()},
        "of_the_peak": {name: ratio(found[name], best) for name in (*MULTIPLES, COMPANY)},
        "useful_of_the_peak": {name: ratio(figures, most) for name, figures in useful.items()},
        "runs": {name: runs[-rounds:] for name, runs in load.found.items()},
    }


@click.command()
@click.option("--rounds", default=3, show_default=True, help="How often each load has its turn.")
@click.option("--seconds", default=6.0, show_default=True, help="How long a turn is measured.")
@click.option("--deadline", default=1.0, show_default=True, help="Deadline of each request, in seconds.")
@click.option("--size", default=32, show_default=True, help="Height and width of the image; decides the capacity.")
@click.option("--max-batch", default=1, show_default=True, help="The gateway's max_batch.")
@click.option("--save", is_flag=True, help="Keep the result under benchmarks/results/.")
def main(rounds: int, seconds: float, deadline: float, size: int, max_batch: int, save: bool) -> None:
    """Measure goodput under overload; the result is JSON on standard output."""
    module, _ = resnet50()
    signature = Signature.batched({"pixel_values": torch.randn(2, 3, size, size)})
    settings = {"max_batch": max_batch, "batch_delay_ms": 0 if max_batch == 1 else 2}
    with tempfile.TemporaryDirectory(prefix="stageline-bench-") as folder:
        bench = BenchCluster(nodes=1, gateway=settings)
        try:
            bench.store = BlobStore(Path(folder))
            say(f"importing ResNet-50 at {size} x {size} and starting")
            manifest = import_module(module, signature, name=f"resnet50-{size}", store=bench.store)
            load = Load(bench.gateway, bench.serve(manifest, stages=1), seconds, deadline)
            load.closed()
            found = _take_turns(load, rounds)
        finally:
            bench.close()
    about = {"model": f"{manifest.name} on one worker, one thread", "max_batch": max_batch, "deadline_s": deadline}
    report("overload", {"machine": machine(), **about, **summarised(load, found)}, save=save)


def _take_turns(load: Load, rounds: int) -> dict[str, list[float]]:
    cases: dict[str, Callable[[], float]] = {
        CAPACITY: load.closed,
        **{name: partial(load.open, name, multiple) for name, multiple in MULTIPLES.items()},
        COMPANY: load.in_company,
    }
    with progress("overload", rounds * len(cases)) as tick:
        return interleave(cases, rounds, tick)


if __name__ == "__main__":
    main()
