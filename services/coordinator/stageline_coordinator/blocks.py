"""Links that plans do without, because batches do not come through them: for how long. Pure; times are seconds.

Each time longer, so that a link that swallows batches though it can be probed does not have plans move to and fro.
"""

from __future__ import annotations

from dataclasses import dataclass

from .network import Ends

FIRST_S, LONGEST_S, GROWTH = 10.0, 600.0, 3.0
FORGET_S = 1800.0
"""A link that was good for so long starts anew."""


@dataclass
class _Block:
    times: int
    since: float
    until: float
    on: bool = True


class Blocks:
    """Links (directions) by the identities of their ends."""

    def __init__(self) -> None:
        self._blocks: dict[Ends, _Block] = {}
        self.now: frozenset[Ends] = frozenset()

    def add(self, ends: Ends, now: float) -> bool:
        """Do without it from now on; False if that is so already."""
        known = self._blocks.get(ends)
        if known is not None and known.on:
            return False
        times = 1 if known is None or now - known.until >= FORGET_S else known.times + 1
        length = min(LONGEST_S, FIRST_S * GROWTH ** (times - 1))
        self._blocks[ends] = _Block(times, now, now + length)
        self._note()
        return True

    def due(self, now: float) -> list[Ends]:
        """Those whose time is over."""
        return [ends for ends, block in self._blocks.items() if block.on and block.until <= now]

    def since(self, ends: Ends) -> float:
        """When it was added."""
        return self._blocks[ends].since

    def remove(self, ends: Ends) -> None:
        """Plans may use it again."""
        self._blocks[ends].on = False
        self._note()

    def forget(self, identity: str) -> None:
        """That peer will not come back."""
        self._blocks = {ends: block for ends, block in self._blocks.items() if identity not in ends}
        self._note()

    def _note(self) -> None:
        self.now = frozenset(ends for ends, block in self._blocks.items() if block.on)
