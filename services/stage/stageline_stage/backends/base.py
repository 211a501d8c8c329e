"""The interface of a backend. A stage is loaded for torch first, and served by it until a backend takes over.

`compile` runs in a child process of its own that may die, take long and take memory; `load` in the executor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import fx

from stageline.blocks import ValueSpec
from stageline.errors import StagelineError
from stageline_stage.executor.device import StageCall


class UnsuitableError(StagelineError):
    """The backend cannot run this stage; the message says why."""

    code = "unsuitable"


@dataclass(frozen=True)
class Sample:
    """Inputs of a stage, in order, and the sizes of the dynamic dimensions that they have."""

    inputs: tuple[Any, ...]
    dims: Mapping[str, int]


@dataclass(frozen=True)
class Source:
    """A stage to compile: its module for torch, and what goes in and out of it.

    `samples`: no two dimensions of the first have the same size, as far as their ranges allow it.
    """

    module: fx.GraphModule
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    samples: tuple[Sample, ...]


class Backend(Protocol):
    """One way to run stages on the CPU."""

    name: str

    precisions: tuple[str, ...]
    """In which it can compute: "f32"."""

    dynamic: bool
    """Whether one artifact serves every size of the dynamic dimensions; else it is compiled for each."""

    needs_torch: bool
    """Whether an executor needs torch to load and run an artifact."""

    def available(self) -> str:
        """Why it cannot be used on this box, and what to do about it; empty if it can."""

    def prepare(self) -> None:
        """Import what `load` needs; called at an executor's start, while nothing waits for it yet."""

    def version(self) -> str:
        """What artifacts depend on: those of another version are compiled anew."""

    def compile(self, source: Source, precision: str, folder: Path) -> None:
        """Write an artifact into an empty folder. Raises whatever it likes; `UnsuitableError` says best why."""

    def load(self, folder: Path, outputs: Sequence[ValueSpec], precision: str, threads: int) -> StageCall:
        """What runs the artifact with so many threads; called once per stage. Raises whatever it likes.

        It takes the stage's inputs, CPU tensors in row-major order and numbers, and gives its outputs, which have to
        stay as they are when it is called again. It computes in the thread that calls it.
        """
