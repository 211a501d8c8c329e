"""When a worker says hello, and whether it counts as joined. Pure: times are monotonic seconds passed in."""

from __future__ import annotations

from typing import Literal

from stageline.coordinators import ASK_AGAIN_S

SILENT_S = 1.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 2.0
DUPLICATE_PATIENCE_S = 5.0
"""A predecessor of our name may have died without the coordinator knowing yet; after this it is alive."""

DUPLICATE_CODES = frozenset({"duplicate", "duplicate_name", "duplicate_node", "name_taken"})

Step = Literal["wait", "hello", "reconnect"]


class Membership:
    """Says `hello` on the present connection or `reconnect` (a fresh one, then hello), with backoff, forever."""

    def __init__(self, now: float) -> None:
        self._heard = now
        self._joined = False
        self._next_hello = now
        self._wait = FIRST_WAIT_S
        self._connected = False
        self._refused_since: float | None = None

    def joined(self, now: float) -> bool:
        """Whether the coordinator knows us and pings."""
        return self._joined and now - self._heard <= SILENT_S

    def welcomed(self, now: float) -> None:
        """A `Welcome` came."""
        self._joined = True
        self._heard = now
        self._wait = FIRST_WAIT_S
        self._refused_since = None

    def pinged(self, now: float) -> None:
        """A `Ping` came; the coordinator pings only whom it knows."""
        self._heard = now

    def rejoin(self, now: float) -> None:
        """A `Rejoin` came."""
        self._joined = False
        self._connected = True
        self._next_hello = min(self._next_hello, now)

    def refused(self, now: float, code: str) -> bool:
        """A `Refused` came; True when there is no use in trying on."""
        self._joined = False
        self._refused_since = now if self._refused_since is None else self._refused_since
        if code in DUPLICATE_CODES:
            return now - self._refused_since > DUPLICATE_PATIENCE_S
        return False

    def stands_by(self, now: float, *, elsewhere: bool) -> None:
        """Who we talk to does not lead: try another one at once, or the same again soon."""
        self._joined, self._connected = False, not elsewhere
        self._next_hello = now + (0.0 if elsewhere else ASK_AGAIN_S)

    def tick(self, now: float) -> Step:
        """What to do now."""
        if self.joined(now):
            self._next_hello = now
            return "wait"
        if self._joined:  # it went silent: perhaps the connection is dead too
            self._joined = self._connected = False
        if now < self._next_hello:
            return "wait"
        self._next_hello = now + self._wait
        self._wait = min(self._wait * 2, LONGEST_WAIT_S)
        step: Step = "hello" if self._connected else "reconnect"
        self._connected = False
        return step
