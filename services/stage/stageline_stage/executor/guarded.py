"""A compiled stage that is believed once its answers to real batches were right, and for as long as it gives any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stageline.blocks import Tolerance
from stageline_stage.backends.judge import deviation
from stageline_stage.executor.device import StageCall

TRIALS = 3
"""So many batches are computed by torch too, whose outputs are sent."""


class Guarded:
    """Call it like the stage. When the compiled one fails, torch's outputs are given, and `gave_up` is told why, once.

    An input that torch cannot compute either is not the compiled stage's fault.
    """

    def __init__(
        self, compiled: StageCall, eager: StageCall, tolerance: Tolerance, *, gave_up: Callable[[str], None]
    ) -> None:
        self._compiled, self._eager = compiled, eager
        self._tolerance, self._gave_up = tolerance, gave_up
        self._trials = TRIALS

    def __call__(self, *inputs: Any) -> Sequence[Any]:
        if self._trials:
            return self._try(inputs)
        try:
            return self._compiled(*inputs)
        except Exception as error:
            wanted = self._eager(*inputs)
            self._give_up(f"it failed in a batch ({type(error).__name__})")
            return wanted

    def _try(self, inputs: Sequence[Any]) -> Sequence[Any]:
        wanted = self._eager(*inputs)
        try:
            found = deviation(self._compiled(*inputs), wanted, self._tolerance)
        except Exception as error:
            found = f"it failed in a batch ({type(error).__name__})"
        self._trials -= 1
        if found:
            self._give_up(found)
        return wanted

    def _give_up(self, reason: str) -> None:
        self._trials, self._compiled = 0, self._eager
        self._gave_up(reason)
