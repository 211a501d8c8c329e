"""Where a stage runs, behind one small interface.

A runner starts a batch and later waits for it. The CPU computes at once. On CUDA three streams work side by
side: while one batch computes, the next is copied in and the one before copied out, through pinned staging
buffers; `depth` says how many batches that takes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import torch

from stageline.errors import ConfigError
from stageline_stage.executor.tensors import StageValue
from stageline_stage.resources import cpu_quota

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

StageCall = Callable[..., Sequence[Any]]


class Running(Protocol):
    """A batch under way. `processor_s`: processor time that it took, 0 where that is not asked for or not the CPU."""

    processor_s: float

    def wait(self) -> tuple[list[Any], float]:
        """Its outputs on the CPU, and the seconds it computed; raises what the stage raised."""


class Runner(Protocol):
    """Runs stages on one device."""

    device: torch.device
    depth: int

    def start(self, stage: StageCall, inputs: Sequence[StageValue]) -> Running:
        """Begin a batch; raises what the stage raises."""

    def peak_bytes(self, reset: bool = False) -> int:
        """Device memory in bytes that batches have taken at once since the last reset; 0 where unknown."""


def choose_device(wanted: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "cuda:N"; `ConfigError` naming those that exist."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    present = ["cpu", *(f"cuda:{i}" for i in range(count))]
    if wanted == "auto":
        return torch.device(present[1] if count else "cpu")
    name = "cuda:0" if wanted == "cuda" else wanted
    if not DEVICE.fullmatch(wanted) or name not in present:
        raise ConfigError(f"device {wanted!r} is not on this machine; there is {', '.join(present)}")
    return torch.device(name)


def make_runner(device: torch.device) -> Runner:
    """The runner for a device."""
    return CudaRunner(device) if device.type == "cuda" else CpuRunner(device, cpu_quota())


class Finished(msgspec.Struct):
    """A batch that was computed when it was started."""

    outputs: list[Any]
    seconds: float
    processor_s: float = 0.0

    def wait(self) -> tuple[list[Any], float]:
        """At once."""
        return self.outputs, self.seconds


class CpuRunner:
    """Computes in the calling thread, and in torch's own where it is to use several.

    `quota`: CPUs that the box allows (0: not limited); only then processor time is taken.
    """

    depth = 1

    def __init__(self, device: torch.device, quota: float = 0.0) -> None:
        self.device = device
        self._clock: Callable[[], float] | None = None
        if quota:
            self._clock = time.thread_time if torch.get_num_threads() == 1 else time.process_time

    def start(self, stage: StageCall, inputs: Sequence[StageValue]) -> Running:
        """Compute now."""
        clock = self._clock
        spent = clock() if clock else 0.0
        begun = time.perf_counter()
        outputs = list(stage(*inputs))
        seconds = time.perf_counter() - begun
        return Finished(outputs, seconds, clock() - spent if clock else 0.0)

    def peak_bytes(self, reset: bool = False) -> int:
        """Unknown on the CPU."""
        return 0


class CudaRunner:
    """Copies in, computes and copies out on a stream each."""

    depth = 2

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._baseline = 0
        cuda: Any = torch.cuda
        self._copy_in, self._compute, self._copy_out = (cuda.Stream(device) for _ in range(3))
        self._clock: Callable[[], Any] = lambda: cuda.Event(enable_timing=True)

    def start(self, stage: StageCall, inputs: Sequence[StageValue]) -> Running:
        """Queue copy in, computation and copy out; returns before any has finished."""
        staged = [v.pin_memory() if isinstance(v, torch.Tensor) and v.numel() else v for v in inputs]
        with torch.cuda.stream(self._copy_in):
            there = [v.to(self.device, non_blocking=True) if isinstance(v, torch.Tensor) else v for v in staged]
            copied = self._copy_in.record_event()
        with torch.cuda.stream(self._compute):
            self._compute.wait_event(copied)
            begun = self._compute.record_event(self._clock())
            results = self._run(stage, there)
            ended = self._compute.record_event(self._clock())
        with torch.cuda.stream(self._copy_out):
            self._copy_out.wait_event(ended)
            outputs = [_to_pinned(v) if isinstance(v, torch.Tensor) else v for v in results]
            done = self._copy_out.record_event()
        return _CudaRunning(outputs, (begun, ended, done), [staged, there, results])

    def _run(self, stage: StageCall, inputs: list[Any]) -> list[Any]:
        try:
            return list(stage(*inputs))
        except BaseException:
            self._compute.synchronize()  # kernels already queued still read the inputs, which are freed now
            raise

    def peak_bytes(self, reset: bool = False) -> int:
        """Of torch's caching allocator, what was allocated at the last reset (weights) left out."""
        peak = torch.cuda.max_memory_allocated(self.device) - self._baseline
        if reset:
            self._baseline = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        return max(0, peak)


class _CudaRunning:
    """Holds every tensor that a stream still uses: freed earlier, its memory could be handed to another stream."""

    def __init__(self, outputs: list[Any], events: tuple[Any, Any, Any], held: list[Any]) -> None:
        self._outputs = outputs
        self._begun, self._ended, self._done = events
        self.processor_s = 0.0
        self._held = held

    def wait(self) -> tuple[list[Any], float]:
        """When the copy out has finished."""
        self._done.synchronize()
        self._held.clear()
        return self._outputs, self._begun.elapsed_time(self._ended) / 1e3


def _to_pinned(value: torch.Tensor) -> torch.Tensor:
    dense = value.contiguous()
    host = torch.empty(dense.shape, dtype=dense.dtype, pin_memory=True)
    return host.copy_(dense, non_blocking=True)
