"""When an executor counts as hung, and when the next one starts. Pure: times are monotonic seconds passed in.

An executor is `waiting` to be spawned, `starting` until its first hello, `up`, `killed` until the kernel has
reaped it, `stopping` once told to finish, `ended` when it shall not come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from stageline.errors import StagelineError

State = Literal["waiting", "starting", "up", "killed", "stopping", "ended"]

TRANSITIONS: dict[tuple[State, str], State] = {
    ("waiting", "spawned"): "starting",
    ("starting", "hello"): "up",
    ("starting", "killed"): "killed",
    ("starting", "exited"): "waiting",
    ("up", "killed"): "killed",
    ("up", "exited"): "waiting",
    ("killed", "exited"): "waiting",
    ("waiting", "stop"): "ended",
    ("starting", "stop"): "stopping",
    ("up", "stop"): "stopping",
    ("killed", "stop"): "stopping",
    ("stopping", "stop"): "stopping",
    ("stopping", "hello"): "stopping",
    ("stopping", "killed"): "stopping",
    ("stopping", "exited"): "ended",
    ("ended", "stop"): "ended",
}


class IllegalTransition(StagelineError):  # noqa: N818  a programming error, not a condition
    """An event that cannot happen in the present state."""

    code = "illegal_transition"


@dataclass(frozen=True)
class Patience:
    """Seconds. `start_s` until the first hello, `silent_s` without a beat, `stopped_s` in process state T.

    `backoff_s` are the waits before the first, second, … restart; after `stable_s` without trouble they
    begin anew.
    """

    start_s: float = 60.0
    silent_s: float = 1.0
    stopped_s: float = 0.3
    backoff_s: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
    stable_s: float = 30.0
    lateness_s: float = 0.5


@dataclass(frozen=True)
class Spawn:
    """Start an executor now."""


@dataclass(frozen=True)
class Kill:
    """Kill the executor with SIGKILL; `reason` says why."""

    reason: str


Instruction = Union[Spawn, Kill]


class Supervisor:
    """Watches one executor slot. Feed it what happens, call `tick` often and do what it says."""

    def __init__(self, patience: Patience, now: float) -> None:
        self._patience = patience
        self.state: State = "waiting"
        self.restarts = 0
        self._spawn_at = now
        self._failures = 0
        self._began = self._heard = self._ticked = now
        self._stopped_since: float | None = None
        self._kill_reason = ""

    def spawned(self, now: float) -> None:
        """The process was started."""
        self._go("spawned")
        self._began = self._heard = now
        self._stopped_since = None
        self._kill_reason = ""

    def hello(self, now: float) -> None:
        """The executor said that it is ready."""
        self._go("hello")
        self._began = self._heard = now

    def heard(self, now: float) -> None:
        """Any message of the executor."""
        self._heard = now

    def exited(self, now: float, exit_code: int) -> str:
        """The process ended; returns the reason for people."""
        stable = self.state != "starting" and now - self._began > self._patience.stable_s
        self._failures = 0 if stable else self._failures
        reason = self._kill_reason or describe_exit(exit_code)
        self._go("exited")
        waits = self._patience.backoff_s
        self._spawn_at = now + waits[min(self._failures, len(waits) - 1)]
        self._failures += 1
        self.restarts += 1
        return reason

    def stop(self) -> None:
        """No executor is wanted any more; one that runs was told to finish."""
        self._go("stop")

    def tick(self, now: float, process_state: str = "") -> list[Instruction]:
        """What to do now. `process_state` is the letter of proc(5), "" when there is no process."""
        late = now - self._ticked - self._patience.lateness_s
        if late > 0:  # we were stopped or starved ourselves: what we did not hear says nothing
            self._heard = max(self._heard, min(now, self._heard + late))
            self._began = min(now, self._began + late) if self.state == "starting" else self._began
        self._ticked = now
        if self.state == "waiting":
            return [Spawn()] if now >= self._spawn_at else []
        reason = self._hung(now, process_state)
        if not reason:
            return []
        self._go("killed")
        self._kill_reason = reason
        return [Kill(reason)]

    def _hung(self, now: float, process_state: str) -> str:
        if self.state not in ("starting", "up", "stopping"):
            return ""
        if process_state == "T":
            self._stopped_since = now if self._stopped_since is None else self._stopped_since
            if now - self._stopped_since > self._patience.stopped_s:
                return "killed: it was stopped by a signal"
        else:
            self._stopped_since = None
        if self.state == "up" and now - self._heard > self._patience.silent_s:
            return f"killed: silent for {now - self._heard:.1f} s"
        if self.state == "starting" and now - self._began > self._patience.start_s:
            return f"killed: not ready within {self._patience.start_s:g} s; raise start_timeout_s"
        return ""

    def _go(self, event: str) -> None:
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise IllegalTransition(f"an executor that is {self.state} cannot be {event}")
        self.state = following


def describe_exit(exit_code: int) -> str:
    """An exit code as `subprocess` gives it (negative: a signal), for people."""
    return f"ended by signal {-exit_code}" if exit_code < 0 else f"exited with code {exit_code}"
