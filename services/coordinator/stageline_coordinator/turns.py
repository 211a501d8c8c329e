"""Whose turn it is on a host, blocks' or links'. Pure; times are seconds on one monotonic clock.

A link is measured while neither of its hosts measures blocks. Hosts that went from one block to the next would hardly
ever rest together, so a host that has measured blocks while links of its wait for their turn then rests as long
as that took, or until none waits. Of two hosts the one that takes longer thus waits for the other, surely to be met.
"""

from __future__ import annotations

import math
from collections.abc import Collection


class Turns:
    """Tell it with `saw` which hosts measure blocks, at every look."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._rests_until: dict[str, float] = {}

    def saw(self, measuring: Collection[str], now: float) -> None:
        """Those hosts measure blocks now, and no others."""
        for host in self._begun.keys() - set(measuring):
            self._rests_until[host] = now + (now - self._begun.pop(host))
        for host in measuring:
            self._begun.setdefault(host, now)
        self._rests_until = {host: until for host, until in self._rests_until.items() if now < until}

    def free(self, host: str, waiting: Collection[str], now: float) -> bool:
        """Whether (more) blocks may be measured on that host, if links of those `waiting` wait for their turn."""
        resting = host in self._begun or now < self._rests_until.get(host, -math.inf)
        return host not in waiting or not resting
