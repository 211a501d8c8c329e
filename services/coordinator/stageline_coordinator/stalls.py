"""Links that swallow batches, found by comparing what one end sent with what the other received. Pure.

Both ends tell with every heartbeat which batch of each gateway was the last to pass them (`stageline.passing`). What
had gone before the receiver's last look at its socket, and still has not come by this one, is overdue; a link over
which nothing comes while something is overdue for `STALL_S`, and for as long as its largest message may take, has
stalled. Only the receiver's looks count, and no more than `STEP_S` between two of them: an end that stands still,
computes or is silent says nothing of its links. Batches lost on a link that goes on working are the gateways' to find,
from their order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stageline.messages import Passage
from stageline.plan import StalledLink

STALL_S, STEP_S = 0.3, 0.15
SLOW_BYTES_PER_S, SLACK = 1_000_000, 3.0
"""What a link whose speed is not known is taken to carry; messages may take so many times as long as they should."""

FORGET_S = 30.0
"""A stalled link over which nothing is sent any more is spoken of for so long."""

MOST = 1024
"""Links of one end that are followed."""

Ends = tuple[str, str]
"""(source or target, gateway): executors, or gateways as headers name them."""


@dataclass
class _Lane:
    """Batches of one gateway on a link: the newest that `went`, had by the last look, `came`, was given up."""

    went: int = 0
    gone: int = 0
    came: int = 0
    given_up: int = 0

    @property
    def owes(self) -> bool:
        return self.gone > max(self.came, self.given_up)


@dataclass
class _Link:
    heard: float
    lanes: dict[str, _Lane] = field(default_factory=dict)
    nbytes: int = 0
    overdue_s: float = 0.0
    number: int = 0
    strikes: int = 0
    struck: float = -math.inf


@dataclass(frozen=True)
class Stall:
    """Found now, the `strikes`th time since something came over the link."""

    source: str
    target: str
    strikes: int


class Stalls:
    """`rate` gives the bytes/s of a link, 0 where it is not known."""

    def __init__(self, rate: Callable[[str, str], float] = lambda source, target: 0.0) -> None:
        self._rate = rate
        self._into: dict[str, dict[str, _Link]] = {}
        self._looks: dict[str, tuple[int, float]] = {}
        self._numbers = itertools.count(1)
        self.stalled: tuple[StalledLink, ...] = ()

    def heard(self, passage: Passage, now: float) -> Iterator[Stall]:
        """An end says what passed it."""
        for mark in passage.went[:MOST]:
            link = self._into.setdefault(mark.peer, {}).setdefault(passage.end, _Link(now))
            link.lanes.setdefault(mark.gateway, _Lane()).went = mark.batch
            link.nbytes, link.heard = max(link.nbytes, mark.nbytes), now
        looks, at = self._looks.get(passage.end, (-1, now))
        if looks == passage.looks:
            return
        self._looks[passage.end] = (passage.looks, now)
        came = {(mark.peer, mark.gateway): mark.batch for mark in passage.came}
        step_s, told = min(now - at, STEP_S), False
        for source, link in self._into.get(passage.end, {}).items():
            before = link.number
            yield from self._look(source, passage.end, link, came, step_s, now)
            told = told or link.number != before
        if told:
            self._tell()

    def forget(self, now: float) -> bool:
        """Whether what is stalled has changed: nothing has been sent there for long."""
        self._into = {
            target: kept
            for target, links in self._into.items()
            if (kept := {end: one for end, one in links.items() if now - max(one.heard, one.struck) < FORGET_S})
        }
        self._looks = {end: look for end, look in self._looks.items() if now - look[1] < FORGET_S}
        before = self.stalled
        self._tell()
        return self.stalled != before

    def _look(
        self, source: str, target: str, link: _Link, came: dict[Ends, int], step_s: float, now: float
    ) -> Iterator[Stall]:
        moved = False
        for gateway, lane in link.lanes.items():
            newest = max(lane.came, came.get((source, gateway), 0))
            moved, lane.came = moved or newest > lane.came, newest
        if moved:
            link.overdue_s, link.number, link.strikes = 0.0, 0, 0
        elif any(lane.owes for lane in link.lanes.values()):
            link.overdue_s += step_s
        else:
            link.overdue_s = 0.0
        if link.overdue_s >= STALL_S and link.overdue_s >= self._patience(source, target, link):
            link.overdue_s, link.number, link.struck = 0.0, next(self._numbers), now
            link.strikes += 1
            for lane in link.lanes.values():
                lane.given_up = lane.went
            yield Stall(source, target, link.strikes)
        for lane in link.lanes.values():
            lane.gone = lane.went

    def _patience(self, source: str, target: str, link: _Link) -> float:
        return STALL_S + SLACK * link.nbytes / (self._rate(source, target) or SLOW_BYTES_PER_S)

    def _tell(self) -> None:
        self.stalled = tuple(
            StalledLink(source=source, target=target, number=link.number)
            for target, links in self._into.items()
            for source, link in links.items()
            if link.number
        )
