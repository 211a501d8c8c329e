"""Seconds as integers, so that 0.1 + 0.2 and 0.3 are the same number, and comparing them needs no tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
FORBIDDEN = 1 << 60
_LIMIT = 1 << 58
_DIGITS = 15  # decimal digits kept of the largest sum


def distinct(values: Ints) -> Ints:
    """Those values, ascending. Much faster than `np.unique`, which hashes."""
    ordered = np.sort(values, axis=None)
    found: Ints = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]
    return found


@dataclass(frozen=True)
class Quanta:
    """One quantum is 1 / `scale` seconds, up to `limit` quanta.

    Longer seconds are only compared, never added: the i-th of the ascending `beyond` is the value _LIMIT + i.
    So a link that takes a million times as long as the whole chain costs no digits of the chain's seconds.
    """

    scale: float
    limit: int
    beyond: tuple[float, ...] = ()

    @classmethod
    def upto(cls, total_s: float) -> Quanta:
        """For sums of at most `total_s`."""
        if total_s <= 0:
            return cls(1.0, 0)
        return cls(float(10.0 ** min(_DIGITS - math.ceil(math.log10(total_s)), 300)), _LIMIT)

    def of(self, seconds: float) -> int:
        """A term of a sum."""
        return round(seconds * self.scale)

    def array(self, seconds: NDArray[np.float64]) -> Ints:
        """Terms of sums."""
        return np.rint(seconds * self.scale).astype(np.int64)

    def with_beyond(self, seconds: NDArray[np.float64]) -> Quanta:
        """For these seconds, too, as `compared` takes them."""
        large = np.unique(seconds[np.isfinite(seconds) & (seconds > 0) & (seconds * self.scale >= self.limit)])
        return replace(self, beyond=tuple(large.tolist()))

    def compared(self, seconds: NDArray[np.float64]) -> Ints:
        """Seconds that are added to nothing, of any size; inf is FORBIDDEN."""
        known = np.isfinite(seconds)
        large = known & (seconds > 0) & (seconds * self.scale >= self.limit)
        found = np.full(seconds.shape, FORBIDDEN, dtype=np.int64)
        small = known & ~large
        found[small] = self.array(seconds[small])
        found[large] = _LIMIT + np.searchsorted(self.beyond, seconds[large])
        return found

    def times(self, values: Ints) -> NDArray[np.float64]:
        """Seconds that ascending values stand for. Beyond the limit values only rank; ratios are between these."""
        found = values / self.scale
        ranks = np.nonzero(values >= _LIMIT)[0] if self.beyond else np.empty(0, dtype=np.intp)
        found[ranks] = np.array(self.beyond)[values[ranks] - _LIMIT]
        return found

    def seconds(self, value: int) -> float:
        """What a value stands for, to a quantum."""
        return self.beyond[value - _LIMIT] if value >= _LIMIT and self.beyond else value / self.scale
