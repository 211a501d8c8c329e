"""Ray compiled graphs: two actors that return what they get, through channels in shared memory.

Between its turns the actors are stopped (SIGSTOP): they poll their channels, which takes a whole core even when idle.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
from collections import deque
from time import perf_counter
from typing import Any

import torch

from common import SkippedError

IN_FLIGHT = 8


class RayGraphs:
    """Driver to actor 0, actor 1, driver."""

    name = "ray-compiled-graph"
    transport = "Ray compiled graph, shared-memory channels, torch tensors"

    def start(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise SkippedError("ray is not installed: pip install 'stageline[bench]'")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.dag import InputNode

        self._ray: Any = ray
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            object_store_memory=256 << 20,
        )  # fmt: skip

        class Identity:
            def __init__(self) -> None:
                torch.set_num_threads(1)

            def pid(self) -> int:
                return os.getpid()

            def run(self, value: torch.Tensor) -> torch.Tensor:
                return value

        actor: Any = ray.remote(Identity)
        first, second = actor.remote(), actor.remote()
        self._pids = ray.get([first.pid.remote(), second.pid.remote()])
        with InputNode() as given:
            graph: Any = second.run.bind(first.run.bind(given))
        self._graph = graph.experimental_compile(
            _buffer_size_bytes=2 << 20, _max_inflight_executions=IN_FLIGHT, _max_buffered_results=IN_FLIGHT
        )
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            os.kill(pid, number)

    def run(self, nbytes: int, window: int, items: int) -> float:
        self._signal(signal.SIGCONT)
        value = torch.zeros(1, nbytes // 4)
        self._ray.get(self._graph.execute(value))
        waiting: deque[Any] = deque()
        window = min(window, IN_FLIGHT)
        begun = perf_counter()
        for number in range(items + window):
            if number >= window and self._ray.get(waiting.popleft()).nbytes != nbytes:
                raise RuntimeError("Ray gave a tensor of another size")
            if number < items:
                waiting.append(self._graph.execute(value))
        seconds = perf_counter() - begun
        self._signal(signal.SIGSTOP)
        return seconds

    def stop(self) -> None:
        self._signal(signal.SIGCONT)
        self._graph.teardown()
        self._ray.shutdown()
