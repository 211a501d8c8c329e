"""Who measures a link with whom, and when. Pure; times are seconds on one monotonic clock.

No two measurements use one host at the same time, or they would measure each other. New pairs come first, in the
order of a round-robin tournament (circle method: n nodes meet in n - 1 rounds, n/2 pairs at a time), then those that
have waited longest. Where requests pass through an end, one pair at a time is measured in the whole cluster, and
then there is a rest, so that `BUSY_SHARE` of the time goes into it. Those that live traffic casts doubt upon come
before all others, and have `DOUBT_SHARE` of the time for themselves besides.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from .peers import Peer

Pair = tuple[str, str]
"""Two identities in order; an agent comes before a gateway, so the first one can always measure."""

BUDGET_S, SAME_HOST_S = 0.06, 0.012
"""How long to measure a link; within a host, where messages never meet a cable, shorter."""

BUSY_SHARE, DOUBT_SHARE = 0.03, 0.02
"""Of the time, at most, while requests pass through an end; what is promised is 5 % together."""

REFRESH_S = 300.0
CONFIRM_S = 2.0
ANSWER_S = 30.0
MAX_ATTEMPTS = 3
RETRY_S, MAX_RETRY_S = 1.0, 60.0
"""After failures a link is tried again after 1, 2, 4, … seconds."""

LOOK_S = 0.1
"""How soon to look again at pairs whose hosts are busy with something else."""


def rounds(count: int) -> Iterator[list[tuple[int, int]]]:
    """The rounds of a tournament of `count` players (by index): each meets each once, once a round at most."""
    ring = [*range(count), *([-1] if count % 2 else [])] if count > 1 else []
    for _ in range(len(ring) - 1):
        half = len(ring) // 2
        pairs = zip(ring[:half], reversed(ring[half:]), strict=True)
        yield [(min(pair), max(pair)) for pair in pairs if min(pair) >= 0]
        ring = [ring[0], ring[-1], *ring[1:-1]]


@dataclass
class _State:
    rank: int
    due: float
    measured: bool
    attempts: int = 0
    doubted: bool = False


@dataclass(frozen=True)
class _Match:
    """`apart`: its time counts as part of `DOUBT_SHARE`."""

    hosts: frozenset[str]
    busy: bool
    apart: bool
    begun: float


class Tournament:
    """Ask `next` whom to tell, and say with `ended` or `lost` what came of it."""

    def __init__(self, measured: Collection[Pair]) -> None:
        self._measured = set(measured)
        self._known: dict[Pair, _State] = {}
        self._states: dict[Pair, _State] = {}
        self._incarnations: dict[str, str] = {}
        self._entered: dict[str, str] = {}
        self._matches: dict[Pair, _Match] = {}
        self._busy_from = self._doubt_from = self._look_at = -math.inf
        self._resting: frozenset[str] = frozenset()
        self.waiting: frozenset[str] = frozenset()
        """Hosts of pairs that are due, have not failed, and wait for nothing but hosts."""

    @property
    def complete(self) -> bool:
        """Whether each pair was measured, or could not be."""
        return all(state.measured or state.attempts for state in self._states.values())

    @property
    def hosts(self) -> frozenset[str]:
        """Where something is measured now."""
        return frozenset().union(*(match.hosts for match in self._matches.values()))

    def next(self, peers: Sequence[Peer], resting: Collection[str], now: float) -> list[tuple[Peer, Peer]]:
        """Pairs that begin now, the first of which measures; not on `resting` hosts. `peers` are all who can."""
        self._enter(peers, now)
        if now < self._look_at and not self._resting - set(resting):
            return []
        self._resting = frozenset(resting)
        here = {peer.identity: peer for peer in peers}
        taken, found, waiting = {*self.hosts, *resting}, list[tuple[Peer, Peer]](), set[str]()
        due = [pair for pair, state in self._states.items() if state.due <= now and pair not in self._matches]
        for pair in sorted(due, key=self._urgency):
            a, b, state = here[pair[0]], here[pair[1]], self._states[pair]
            hosts, busy = frozenset((host_of(a), host_of(b))), not (a.quiet(now) and b.quiet(now))
            apart = state.doubted and now >= self._doubt_from
            if hosts & taken or (busy and (self._busy or not (apart or now >= self._busy_from))):
                waiting |= frozenset() if busy or state.attempts else hosts
                continue
            self._matches[pair] = _Match(hosts, busy, apart, now)
            taken |= hosts
            found.append((a, b))
        later = [state.due for pair, state in self._states.items() if pair not in self._matches]
        self.waiting = frozenset(waiting)
        self._look_at = now + LOOK_S if len(due) > len(found) else min(later, default=math.inf)
        return found

    def ended(self, pair: Pair, ok: bool, now: float, *, confirm: bool = False) -> bool:
        """An answer came. True when the pair has failed so often that the link counts as broken."""
        match, state = self._matches.pop(pair, None), self._states.get(pair)
        self._look_at = now
        if match is None or state is None:
            return False
        if match.busy and match.apart:
            self._doubt_from = now + (now - match.begun) / DOUBT_SHARE
        elif match.busy:
            self._busy_from = now + (now - match.begun) / BUSY_SHARE
        if ok:
            self._measured.add(pair)
            state.measured, state.attempts, state.doubted = True, 0, False
            state.due = now + (CONFIRM_S if confirm else REFRESH_S)
            return False
        state.attempts += 1
        state.due = now + min(MAX_RETRY_S, RETRY_S * 2 ** (state.attempts - 1))
        return state.attempts >= MAX_ATTEMPTS

    def knows(self, ends: Pair) -> bool:
        """Whether the link between the two, in either order, can be measured."""
        return ends in self._states or ends[::-1] in self._states

    def again(self, ends: Pair, now: float, *, doubted: bool = False) -> None:
        """Measure that link soon, if it can be; one that is `doubted` before all others."""
        for pair in (ends, ends[::-1]):
            state = self._states.get(pair)
            if state is not None:
                state.due, self._look_at = now, now
                state.doubted = state.doubted or doubted

    def around(self, ends: Pair, now: float) -> None:
        """Measure the other links of both ends when there is time: what slowed this one down may slow them, too."""
        for pair, state in self._states.items():
            if set(pair) & set(ends) and not set(pair) <= set(ends):
                state.due, self._look_at = min(state.due, now), now

    def overdue(self, now: float) -> list[Pair]:
        """Pairs whose answer does not come; tell `ended`."""
        return [pair for pair, match in self._matches.items() if now - match.begun >= ANSWER_S]

    def lost(self, identity: str) -> None:
        """That peer went away: its match counts for nothing."""
        self._matches = {pair: match for pair, match in self._matches.items() if identity not in pair}
        self._look_at = -math.inf

    def forget(self, identity: str) -> None:
        """It will not come back."""
        self._measured = {pair for pair in self._measured if identity not in pair}
        self._known = {pair: state for pair, state in self._known.items() if identity not in pair}
        self._incarnations.pop(identity, None)

    @property
    def _busy(self) -> bool:
        return any(match.busy for match in self._matches.values())

    def _urgency(self, pair: Pair) -> tuple[bool, bool, float, int]:
        state = self._states[pair]
        return (not state.doubted, state.measured, state.due if state.measured else 0.0, state.rank)

    def _enter(self, peers: Sequence[Peer], now: float) -> None:
        """Pairs of those who started anew are due at once; those of who left wait for their return."""
        entered = {peer.identity: peer.hello.incarnation for peer in peers}
        if entered == self._entered:
            return
        fresh = {name for name, incarnation in entered.items() if self._incarnations.get(name) != incarnation}
        self._entered, self._look_at = entered, now
        self._incarnations |= entered
        names, states = sorted(entered), dict[Pair, _State]()
        order = (pair for round_ in rounds(len(names)) for pair in round_)
        for rank, (i, j) in enumerate(order):
            pair = (names[i], names[j])
            if not names[i].startswith("agent:"):
                continue
            old = self._known.get(pair)
            if old is None or fresh & set(pair):
                old = _State(rank, now, pair in self._measured)
            old.rank = rank
            states[pair] = old
        self._states = states
        self._known |= states


def host_of(peer: Peer) -> str:
    """What peers on one machine have in common."""
    return peer.hello.probe.host if peer.hello.probe and peer.hello.probe.host else peer.identity


def budget_s(a: Peer, b: Peer) -> float:
    """Seconds for the link between two peers."""
    return SAME_HOST_S if host_of(a) == host_of(b) else BUDGET_S
