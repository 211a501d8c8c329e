"""How a worker leaves after SIGTERM. Pure: times are monotonic seconds passed in.

It tells the coordinator, goes on serving until that plans around it (`Farewell`) or `drain_s` is over, lets the
executor finish what is queued, and ends. Without a coordinator there is nobody to wait for.
"""

from __future__ import annotations

from typing import Literal

FINISH_S = 5.0
"""Seconds that an executor may take for what is queued, once told to stop."""

Phase = Literal["serving", "leaving", "finishing", "gone"]
Step = Literal["wait", "announce", "stop", "kill", "exit"]


class Departure:
    """Call `tick` often and do what it says."""

    def __init__(self, drain_s: float) -> None:
        self.phase: Phase = "serving"
        self._drain_s = drain_s
        self._deadline = 0.0
        self._farewell = False
        self._announced = False
        self._killed = False

    def begin(self, now: float) -> None:
        """SIGTERM came."""
        if self.phase == "serving":
            self.phase = "leaving"
            self._deadline = now + self._drain_s

    def farewell(self) -> None:
        """The coordinator lets us go."""
        self._farewell = True

    def welcomed(self) -> None:
        """A coordinator (perhaps another than we told) knows us: tell it again."""
        self._announced = False

    def tick(self, now: float, *, joined: bool, executor_runs: bool) -> Step:
        """What to do now."""
        if self.phase == "leaving":
            return self._leave(now, joined, executor_runs)
        if self.phase == "finishing":
            if not executor_runs:
                self.phase = "gone"
                return "exit"
            if now >= self._deadline and not self._killed:
                self._killed = True
                return "kill"
        return "exit" if self.phase == "gone" else "wait"

    def _leave(self, now: float, joined: bool, executor_runs: bool) -> Step:
        if joined and not self._farewell and now < self._deadline:
            if self._announced:
                return "wait"
            self._announced = True
            return "announce"
        self.phase = "finishing" if executor_runs else "gone"
        self._deadline = now + min(FINISH_S, max(self._drain_s, 1.0))
        return "stop" if executor_runs else "exit"
