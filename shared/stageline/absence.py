"""When to complain that the coordinator does not answer: soon, then rarely. Pure: times are monotonic seconds."""

from __future__ import annotations

FIRST_S = 3.0
AGAIN_S = 300.0

COMPLAINT = "the coordinator does not answer: check that it runs, and that --coordinator is its control address"


class Absence:
    """Told of every greeting and of every message that comes back."""

    def __init__(self) -> None:
        self._complain_at: float | None = None

    def greeted(self, now: float) -> bool:
        """We said hello, and again because nothing came; True when it is time to complain."""
        if self._complain_at is None:
            self._complain_at = now + FIRST_S
        if now < self._complain_at:
            return False
        self._complain_at = now + AGAIN_S
        return True

    def heard(self) -> None:
        """It is there."""
        self._complain_at = None
