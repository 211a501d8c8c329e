"""How long a block takes here, on synthetic weights, so that nothing has to be fetched for it.

Before each run the caches are filled, as other blocks do in a stage (`cold`). One run at a time: between two runs the
main thread serves whatever batch waits.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from stageline.blocks import BlockSpec, ValueSpec
from stageline.errors import FailedError, ManifestError, StagelineError
from stageline.estimate import estimate
from stageline.manifest import ModelManifest
from stageline.messages import BlockTime, Measure, Measured
from stageline_stage.executor.cold import Caches, others_bytes
from stageline_stage.executor.device import Runner, StageCall
from stageline_stage.executor.sustain import sustained
from stageline_stage.executor.tensors import DTYPES, StageValue
from stageline_stage.graph.rebuild import load_stage
from stageline_stage.resources import available_bytes, cpu_quota

WEIGHT = 0.01
"""Not zero (sums would be trivial) and not so small that products become denormal, which is slow."""

WARM_UP_RUNS = 2
"""Runs after the first that do not count either, unless they are long: a block takes a few to get as fast as it is."""

RUNS = 5
FEWER_RUNS = 3
LONG_S = 0.2
"""A run longer than this is repeated `FEWER_RUNS` times only."""

MOST_RUNS = 25
ENOUGH_S = 0.02
"""Short runs vary most: they are repeated until so much time went into them, `MOST_RUNS` times at most."""

MAX_GUESSES = 64


class Measurement:
    """One `Measure` request; `step` does one run and says whether there is more to do, then see `answer`."""

    def __init__(self, request: Measure, runner: Runner) -> None:
        self._request = request
        self._runner = runner
        self._times: list[BlockTime] = []
        self._error = ""
        self._steps = self._run()

    @property
    def answer(self) -> Measured:
        """What was measured so far."""
        request = self._request
        return Measured(manifest=request.manifest, block=request.block, times=tuple(self._times), error=self._error)

    def step(self) -> bool:
        """Do one run; False when all is measured or it failed."""
        try:
            return next(self._steps, None) is not None
        except StagelineError as error:
            self._error = error.message
        except (OSError, ValueError, RuntimeError, TypeError, IndexError, MemoryError) as error:
            self._error = f"block {self._request.block} cannot be run on synthetic weights ({type(error).__name__})"
        return False

    def _run(self) -> Iterator[bool]:
        manifest = read_manifest(Path(self._request.manifest_path))
        if not 0 <= self._request.block < len(manifest.blocks):
            raise ManifestError(f"the model has no block {self._request.block}")
        block = manifest.blocks[self._request.block]
        weights = {ref.sha256: filled(ref.dtype, ref.shape) for ref in block.tensors}
        stage = load_stage([Path(self._request.graph).read_bytes()], weights, self._runner.device)
        on_cpu = self._runner.device.type == "cpu"
        caches = Caches(others_bytes(manifest, self._request.block, available_bytes()) if on_cpu else 0)
        for batch in self._request.batches:
            dims = {**manifest.nominal, "batch": batch}
            yield from self._measure(stage, block, dims, batch, caches)

    def _measure(
        self, stage: StageCall, block: BlockSpec, dims: Mapping[str, int], batch: int, caches: Caches
    ) -> Iterator[bool]:
        self._runner.peak_bytes(reset=True)
        inputs, first = warm_up(stage, block, dims, self._runner)
        spent_s = first
        yield True
        seconds: list[float] = []
        processor: list[float] = []
        skipped = 0 if first > LONG_S else WARM_UP_RUNS
        while not enough(seconds[skipped:], first):
            begun = time.perf_counter()
            caches.fill()
            fresh = [value.clone() if isinstance(value, torch.Tensor) else value for value in inputs]
            running = self._runner.start(stage, fresh)  # the block before has just written its inputs
            seconds.append(running.wait()[1])
            processor.append(running.processor_s)
            spent_s += time.perf_counter() - begun
            yield True
        workspace = self._runner.peak_bytes() or block.workspace_bytes * batch
        times = sustained(seconds[skipped:], processor[skipped:], cpu_quota())
        self._times.append(summary(self._request.block, batch, times, workspace, spent_s))


def read_manifest(path: Path) -> ModelManifest:
    """The manifest in a file; `ManifestError` if it is malformed."""
    try:
        content = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError:
        raise ManifestError("the manifest is not JSON") from None
    return ModelManifest.from_json(content)


def enough(seconds: Sequence[float], first: float) -> bool:
    """Whether these runs will do, after a first one of `first` seconds that does not count."""
    if len(seconds) < (FEWER_RUNS if first > LONG_S else RUNS):
        return False
    return len(seconds) >= MOST_RUNS or sum(seconds) >= ENOUGH_S


def summary(block: int, batch: int, seconds: Sequence[float], workspace_bytes: int, spent_s: float = 0.0) -> BlockTime:
    """The median of some runs and its error; `spread` is the median absolute deviation relative to it."""
    found = estimate(seconds)
    deviation = statistics.median(abs(s - found.value) for s in seconds)
    return BlockTime(
        block=block,
        batch=batch,
        seconds=found.value,
        spread=deviation / found.value if found.value else 0.0,
        workspace_bytes=workspace_bytes,
        error=found.error,
        runs=len(seconds),
        spent_s=spent_s,
    )


def filled(dtype: str, shape: Sequence[int]) -> torch.Tensor:
    """A tensor of constants: floats `WEIGHT`, integers 0 (a valid index everywhere), booleans true."""
    kind = DTYPES[dtype]
    value: float | int | bool = WEIGHT if kind.is_floating_point else kind is torch.bool
    return torch.full(tuple(shape), value, dtype=kind)


def warm_up(
    stage: StageCall, block: BlockSpec, dims: Mapping[str, int], runner: Runner
) -> tuple[list[StageValue], float]:
    """Inputs with which the block gives the shapes that its manifest promises, and the seconds of that first run.

    The manifest does not say what a number that crosses a cut stands for; it is a size in nearly every model,
    so the sizes are tried until the outputs fit. Raises `FailedError` when none does.
    """
    tensors = {v.name: filled(v.dtype, v.sizes(dims)) for v in block.inputs if v.kind == "tensor"}
    wanted = [v.sizes(dims) for v in block.outputs if v.kind == "tensor"]
    for guess in guesses(block.inputs, dims):
        inputs = [tensors[v.name] if v.kind == "tensor" else guess[v.name] for v in block.inputs]
        try:
            outputs, seconds = runner.start(stage, inputs).wait()
        except (RuntimeError, TypeError, ValueError, IndexError):
            continue
        if [tuple(v.shape) for v in outputs if isinstance(v, torch.Tensor)] == wanted:
            return inputs, seconds
    raise FailedError(f"block {block.name} gives other shapes than its manifest says, or cannot run at these sizes")


def guesses(inputs: Sequence[ValueSpec], dims: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Values for the numbers among the inputs, likeliest first; at most `MAX_GUESSES`."""
    sizes = list(dict.fromkeys([dims["batch"], *dims.values()])) if "batch" in dims else list(dims.values()) or [1]
    kinds: dict[str, list[Any]] = {"int": sizes, "float": [1.0], "bool": [True, False]}
    choices = {v.name: kinds[v.kind] for v in inputs if v.kind != "tensor"}
    for values in itertools.islice(itertools.product(*choices.values()), MAX_GUESSES):
        yield dict(zip(choices, values, strict=True))
