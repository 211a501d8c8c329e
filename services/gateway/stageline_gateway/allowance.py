"""What a client token may still do: its scopes, its rate and its unanswered requests. Pure; seconds are passed in."""

from __future__ import annotations

from threading import Lock

from stageline.clienttokens import ClientToken, Scope
from stageline.errors import ForbiddenError, RejectedError

BURST_S = 1.0
"""So many seconds' worth of requests may come at once, and always one."""
FULL_RETRY_S = 0.1
"""When to come back if too many requests of a token are unanswered."""


class Allowance:
    """Of one token, shared by all of its connections. `lost` says why it lets in no more, and is empty before that.

    The rate is a bucket that fills by `token.rate` a second. HTTP's threads take from it, too.
    """

    def __init__(self, token: ClientToken) -> None:
        self.token = token
        self.lost = ""
        self.in_flight = 0
        self._level: float | None = None
        self._at = 0.0
        self._lock = Lock()

    def __str__(self) -> str:
        return self.token.name or self.token.id

    def need(self, scope: Scope) -> None:
        """Raise `ForbiddenError` unless the token has the scope."""
        if scope not in self.token.scopes:
            has = " and ".join(self.token.scopes) or "none"
            raise ForbiddenError(f"this needs a token of scope {scope}, the one given has {has}: use another")

    def take(self, now: float) -> None:
        """A request comes. Raises `RejectedError` if it comes too early."""
        rate = self.token.rate
        if not rate:
            return
        with self._lock:
            full = max(1.0, rate * BURST_S)
            passed = max(0.0, now - self._at)
            level = full if self._level is None else min(full, self._level + passed * rate)
            self._level, self._at = level - 1.0 if level >= 1.0 else level, now
        if level < 1.0:
            text = f"the token {self} allows {rate:g} requests per second: send fewer"
            raise RejectedError(text, retry_after_s=(1.0 - level) / rate)

    def begin(self, now: float) -> None:
        """A request comes that will be answered later; `end` it then. Raises `RejectedError` if it may not now."""
        most = self.token.in_flight
        if most and self.in_flight >= most:
            text = f"the token {self} allows {most} unanswered requests: wait for answers"
            raise RejectedError(text, retry_after_s=FULL_RETRY_S)
        self.take(now)
        self.in_flight += 1

    def end(self, count: int = 1) -> None:
        """So many have been answered, or nobody waits for them any more."""
        self.in_flight -= count
