"""Which numbers the planner can reckon with: none so large or so small that sums and quotients lose their meaning.

Apart from the planner, whose numpy the coordinator's own process does without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stageline.errors import ConfigError

MAX_BYTES = 1 << 50  # sums over thousands of blocks still fit 64 bits


@dataclass(frozen=True)
class Range:
    """What a number other than 0 must lie in, both ends included; `unlimited`: it may be inf, null in JSON, too."""

    least: float
    most: float
    unlimited: bool = False

    def check(self, value: float, path: str) -> None:
        """Raises `ConfigError` naming the field and the limits."""
        if value == 0 or self.least <= value <= self.most or (self.unlimited and math.isinf(value)):
            return
        raise ConfigError(f"{path}: must be 0 or between {self.least:g} and {self.most:g}, not {value:g}")


SECONDS = Range(1e-12, 1e9, unlimited=True)
LATENCY = Range(0.0, 1e9)
BYTE_S = Range(1e-18, 1e3)
BANDWIDTH = Range(1e-3, 1e18, unlimited=True)
PRIORITY = Range(1e-9, 1e9)
RATE = Range(1e-9, 1e12)
RATIO = Range(1e-6, 1e3)
RELATIVE = Range(0.0, 1e9)
COUNT = Range(1, 1e9)
