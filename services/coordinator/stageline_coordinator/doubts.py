"""Links that carry live traffic slower, or faster, than plans reckon with. Pure; times are seconds.

Receivers tell for each link how many bytes came, and how long at least it was busy with them (`stageline.passing`).
More than `FACTOR` times what the profile allows for these bytes, and noticeably more per batch, is slower: a link that
is never idle shows that at once, one with time to spare from 1 + `FACTOR` times. Whether receivers compute, batches
queue or load grows does not matter to it. Bytes that came in less than a `FACTOR`th of the time are faster. `WINDOWS`
such windows in a row are a doubt, and no more: only a measurement tells bandwidth and latency apart, and a machine that
is full may look like a slow link. A link that was doubted is not doubted again for a while, twice as long each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from stageline.messages import Flow

from .network import FACTOR, Ends, Link

WINDOW_S, FEWEST = 0.5, 2
"""A window is so long, and has so many batches, at least."""

WINDOWS = 3

LEAST_S, NEVER_IDLE = 0.002, 0.9
"""What a batch takes longer at least, where the link is busy for that part of the time. A receiver with short stages
looks at its socket every few of them."""

SPARE_S, SPARE_BYTES = 0.01, 8 << 10
"""The same on a link with time to spare, and how large batches must be there: what smaller ones take, and differences
below that, say more of how busy the machines at its ends are."""

PAUSE_S, LONGEST_S = 10.0, 320.0
CALM_S = 600.0
"""A link that was not doubted for so long starts anew."""

RECENT_S = 2.0
FORGET_S = 60.0


class Window(NamedTuple):
    """What came over a link in `span_s` seconds, and for how many of these at least it was busy with that."""

    batches: int
    nbytes: int
    busy_s: float
    span_s: float


class Windows:
    """Cuts what receivers tell of each link (receiver, sender, as headers name them) into windows."""

    def __init__(self) -> None:
        self._begun: dict[Ends, tuple[Flow, float]] = {}

    def heard(self, receiver: str, flow: Flow, now: float) -> Window | None:
        """The window that is over now, if one is."""
        ends = (receiver, flow.peer)
        before, _ = self._begun.get(ends, (flow, now))
        window = Window(
            flow.batches - before.batches,
            flow.nbytes - before.nbytes,
            flow.busy_s - before.busy_s,
            flow.last_s - before.last_s,
        )
        sound = all(math.isfinite(value) and value >= 0 for value in window)
        over = sound and window.batches >= FEWEST and window.span_s >= WINDOW_S
        self._begun[ends] = (flow if over or not sound else before, now)
        return window if over else None

    def forget(self, now: float) -> None:
        """Those of whom nothing was heard for long."""
        self._begun = {ends: begun for ends, begun in self._begun.items() if now - begun[1] < FORGET_S}


@dataclass(frozen=True)
class Doubt:
    """A link seems to be slower, or else faster, than planned with; `bytes_per_s`: what it seems to carry."""

    slower: bool
    bytes_per_s: float

    def agrees(self, known: Link | None, found: Link, nbytes: int) -> bool:
        """Whether a measurement says so, too."""
        return known is not None and (found.seconds(nbytes) > known.seconds(nbytes)) is self.slower


@dataclass
class _State:
    slow: int = 0
    fast: int = 0
    carried_bytes_per_s: float = 0.0
    heard: float = -math.inf
    doubted: float = -math.inf
    pause_s: float = 0.0


class Doubts:
    """Links by the identities of their ends."""

    def __init__(self) -> None:
        self._states: dict[Ends, _State] = {}

    def add(self, ends: Ends, window: Window, planned: Link | None, now: float) -> Doubt | None:
        """A window is over; says whether the link is to be measured again."""
        state = self._states.setdefault(ends, _State())
        state.carried_bytes_per_s, state.heard = window.nbytes / window.span_s, now
        if planned is None or planned.bytes_per_s <= 0:
            return None
        expected_s = window.nbytes / planned.bytes_per_s
        slower = window.busy_s >= max(FACTOR * expected_s, expected_s + _least_s(window))
        faster = window.span_s <= min(expected_s / FACTOR, expected_s - LEAST_S * window.batches)
        state.slow = state.slow + 1 if slower else 0
        state.fast = state.fast + 1 if faster else 0
        if max(state.slow, state.fast) < WINDOWS or now < state.doubted + state.pause_s:
            return None
        anew = now - state.doubted >= CALM_S
        state.pause_s = PAUSE_S if anew else min(LONGEST_S, 2 * state.pause_s)
        state.doubted, state.slow, state.fast = now, 0, 0
        return Doubt(slower, window.nbytes / (window.busy_s if slower else window.span_s))

    def carried(self, ends: Ends, now: float) -> float:
        """Bytes/s that came over the link just now: no more than it can carry. 0: nothing, or nobody knows."""
        state = self._states.get(ends)
        return state.carried_bytes_per_s if state is not None and now - state.heard < RECENT_S else 0.0

    def forget(self, identity: str) -> None:
        """That peer will not come back."""
        self._states = {ends: state for ends, state in self._states.items() if identity not in ends}


def _least_s(window: Window) -> float:
    """How much longer than expected it must be busy."""
    if window.busy_s >= NEVER_IDLE * window.span_s:
        return LEAST_S * window.batches
    return SPARE_S * window.batches if window.nbytes >= SPARE_BYTES * window.batches else math.inf
