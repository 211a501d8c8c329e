"""Torch, operator by operator: what every stage is served by first, and what all others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stageline.blocks import ValueSpec
from stageline_stage.backends.base import Source, UnsuitableError
from stageline_stage.executor.device import StageCall


class Eager:
    """Has nothing to compile: the loaded stage is what runs."""

    name = "eager"
    precisions: tuple[str, ...] = ("f32",)
    dynamic = True
    needs_torch = True

    def available(self) -> str:
        """Always: the executor has imported torch."""
        return ""

    def prepare(self) -> None:
        """Has been."""

    def version(self) -> str:
        """Torch's."""
        return str(torch.__version__)

    def compile(self, source: Source, precision: str, folder: Path) -> None:
        """Nobody asks for it."""
        raise UnsuitableError("eager stages are not compiled")

    def load(self, folder: Path, outputs: Sequence[ValueSpec], precision: str, threads: int) -> StageCall:
        """Nobody asks for it."""
        raise UnsuitableError("eager stages have no artifact")
