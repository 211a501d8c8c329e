"""Whether this coordinator leads or stands by, and under which term. Pure: news in, steps out.

Two coordinators have no majority, so nothing here keeps both from leading at once; that is made harmless instead. A
term is taken by one coordinator only (it carries its id), a plan is the whole state under (term, version), and gateways
and workers listen to nobody below the highest term that they know. So the worst that two leaders do is to plan for
different workers. The rules keep that rare and short:

- a term that is heard of is promised, on disk, before anything else is said; who leads under a lower one steps down;
- who stands by takes over when its partner is silent *and* somebody needs a coordinator: a worker or gateway came, as
  its own was silent, or nobody else can have led since (`taken` is the highest term promised);
- of two that hear each other and stand by, the one leads that led last; what the partner said before this process
  started or stood still does not count, as it may lead since then (heartbeats wait for a partner that is away): each
  draws a `stamp` then, and says which of the other's it heard last (`echo`);
- who leads and finds that its process stood still for long leads no more until it has heard its partner, or was called:
  some of its workers and gateways may have gone over meanwhile, and each of two leaders would plan without the others.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Union

from stageline.coordinators import NO_TERM_FROM, next_term


@dataclass(frozen=True)
class Remembered:
    """What a coordinator has on disk: its id, the last term that it took (0: never), the highest that it promised.

    `able`: it has all that it needs to lead, as it founded the cluster or once had everything that its partner had.
    """

    coordinator: int
    founder: bool
    able: bool
    taken: int = 0
    promised: int = 0


@dataclass(frozen=True)
class Promise:
    """Write the term to disk before anything is said."""

    term: int


@dataclass(frozen=True)
class Lead:
    """Write the term to disk as taken and promised, then lead under it."""

    term: int


@dataclass(frozen=True)
class StepDown:
    """Lead no more; `term` is the higher one that was heard of, or our own, where another may lead unheard."""

    term: int


Step = Union[Promise, Lead, StepDown]


def _draw() -> int:
    return 1 + secrets.randbits(62)


class Leadership:
    """Whoever owns it does the steps, in order. `partner`: whether another coordinator is known, heard of or not.

    `draw` gives a number above 0 that it never gave before.
    """

    def __init__(self, past: Remembered, *, partner: bool, draw: Callable[[], int] = _draw) -> None:
        self.coordinator, self._founder, self.able = past.coordinator, past.founder, past.able
        self.taken, self.promised = past.taken, past.promised
        self.leading = self.passed_over = False
        self._absent = not partner
        self._called = False
        self._draw = draw
        self.stamp, self.echo = draw(), 0

    @property
    def term(self) -> int:
        """What others are told: the term that we lead under, or the highest that we promised to follow."""
        return self.promised

    def start(self) -> Iterator[Step]:
        """The process runs; with a partner it waits until that was heard, or was silent."""
        yield from self._perhaps_lead()

    def heard(
        self, coordinator: int, term: int, taken: int, *, leads: bool, stamp: int = 0, echo: int = 0
    ) -> Iterator[Step]:
        """The partner said how it stands; see `stageline.messages.Standing`."""
        self._absent, self.echo = False, stamp
        yield from self._promise(term)
        if self._stale(stamp, echo):
            return
        self.passed_over = False
        last = (self.taken, self.coordinator) > (taken, coordinator)
        if not leads and not self.leading and self.able and last:
            yield from self._lead()
        self._called = False

    def silent(self) -> Iterator[Step]:
        """The partner is not heard any more."""
        self._absent = True
        yield from self._perhaps_lead()

    def stood_still(self) -> Iterator[Step]:
        """The process did nothing for so long that its workers and gateways may have gone to the partner."""
        self.stamp = self._draw()
        if self.leading and not self._absent:
            self.leading, self._called, self.passed_over = False, False, True
            yield StepDown(self.promised)

    def called(self, term: int) -> Iterator[Step]:
        """A worker or gateway came; `term` is the highest that it knows."""
        self._called = True
        yield from self._promise(term)
        yield from self._perhaps_lead()

    def _stale(self, stamp: int, echo: int) -> bool:
        """Whether it may have been said before we started, or stood still. One of an older version does not tell."""
        return bool(stamp) and echo != self.stamp

    def _promise(self, term: int) -> Iterator[Step]:
        if not self.promised < term < NO_TERM_FROM:
            return
        self.promised = term
        yield Promise(term)
        if self.leading:
            self.leading = False
            yield StepDown(term)

    def _perhaps_lead(self) -> Iterator[Step]:
        last = 0 < self.taken == self.promised and not self.passed_over
        needed = self._called or (self._founder and not self.promised) or last
        if not self.leading and self._absent and self.able and needed:
            yield from self._lead()

    def _lead(self) -> Iterator[Step]:
        self.taken = self.promised = next_term(self.promised, self.coordinator, founder=self._founder)
        self.leading, self.passed_over = True, False
        yield Lead(self.taken)
