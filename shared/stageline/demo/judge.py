"""Is this answer right, and is it the answer to *this* request? Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """`excess` is the largest |answer - reference| relative to what is tolerated: up to 1 is right.

    `exact` says bit-equal; `own` that no other request's reference is nearer; `strict` that equality was demanded.
    """

    exact: bool
    excess: float
    own: bool
    strict: bool

    @property
    def right(self) -> bool:
        """Bit-equal where the batch sizes are equal, else within the tolerance; and nobody else's answer."""
        return self.own and (self.exact if self.strict else self.excess <= 1.0)


class Judge:
    """Compares answers with the unsplit model's, `reference[i]` for input i, computed at batch 1.

    Tolerance as in `numpy.allclose`: |a - b| <= atol + rtol * |b|.
    """

    def __init__(self, reference: Floats, *, rtol: float, atol: float) -> None:
        self._reference = reference
        self._allowed = atol + rtol * np.abs(reference)

    def __call__(self, index: int, answer: Floats, batch: int) -> Verdict:
        """Judge the answer to input `index`, computed in a batch of `batch` items."""
        wanted = self._reference[index]
        strict = batch == 1
        if answer.shape != (1, *wanted.shape) or answer.dtype != wanted.dtype or not np.isfinite(answer).all():
            return Verdict(exact=False, excess=float("inf"), own=False, strict=strict)
        exact = answer[0].tobytes() == wanted.tobytes()
        excess = float(np.max(np.abs(answer[0] - wanted) / self._allowed[index]))
        return Verdict(exact=exact, excess=excess, own=exact or self._is_nearest(index, answer[0]), strict=strict)

    def separation(self) -> float:
        """How far apart the two most similar references are, relative to what is tolerated."""
        nearest = float("inf")
        for i in range(len(self._reference) - 1):
            gap = np.abs(self._reference[i + 1 :] - self._reference[i]) / self._allowed[i]
            nearest = min(nearest, float(gap.max(axis=1).min()))
        return nearest

    def _is_nearest(self, index: int, answer: Floats) -> bool:
        distances = np.abs(self._reference - answer).max(axis=1)
        return bool(distances[index] <= distances.min())
