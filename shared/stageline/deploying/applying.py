"""The steps of a plan, done one after the other; what does not come up is taken back at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from stageline.deploying.fleet import Fleet
from stageline.deploying.planning import (
    Await,
    Change,
    Create,
    Drop,
    LetIn,
    LetOut,
    SetAside,
    Start,
    Step,
    Stop,
    Transfer,
)
from stageline.deploying.site import Role
from stageline.errors import NotReadyError

LOOK_S = 0.5


class Applier:
    """`fleet` may be any with its methods; `sleep` and `clock` are the time's."""

    def __init__(
        self, fleet: Fleet, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._fleet, self._clock, self._sleep = fleet, clock, sleep

    def apply(self, changes: Iterable[Change], began: Callable[[Change], None] = lambda change: None) -> None:
        """Raises `NotReadyError` where a service did not come up, once what was there before runs again.

        Nothing that comes after is changed then.
        """
        for change in changes:
            began(change)
            for step in change.steps:
                self._do(step)

    def _do(self, step: Step) -> None:
        fleet = self._fleet
        if isinstance(step, Transfer):
            fleet.transfer(step)
        elif isinstance(step, LetIn):
            fleet.let_in(step.box, step.container, step.names)
        elif isinstance(step, LetOut):
            fleet[step.box].forget_keys(step.container, step.names)
        elif isinstance(step, Stop):
            fleet[step.box].stop(step.container, step.grace_s)
        elif isinstance(step, SetAside):
            fleet.set_aside(step.box, step.container)
        elif isinstance(step, Create):
            fleet.create(step.wanted)
        elif isinstance(step, Start):
            fleet[step.box].start(step.container)
        elif isinstance(step, Drop):
            fleet[step.box].remove(step.container)
        else:
            self._await(step)

    def _await(self, step: Await) -> None:
        one = step.wanted.service
        wrong = self._wrong(one.box, one.container, one.role)
        if not wrong:
            return
        what = f"box {one.box}: the {one.role} did not come up: {wrong}"
        if not step.fallback:
            raise NotReadyError(f"{what}; `stageline deploy logs` shows more")
        self._fleet.bring_back(one.box, one.container)
        again = self._wrong(one.box, one.container, one.role)
        if again:
            raise NotReadyError(f"{what}; the one from before was started again, but does not come up either: {again}")
        raise NotReadyError(f"{what}. The one from before runs again, and nothing that comes after was changed")

    def _wrong(self, box: str, container: str, role: Role) -> str:
        """Why a service does not take part in time; empty when it does."""
        engine, deadline = self._fleet[box], self._clock() + self._fleet.site.wait_s
        restarts = engine.restarts(container)
        while not engine.joined(container, role):
            ended = engine.ended(container, restarts)
            if ended:
                return ended
            if self._clock() > deadline:
                return f"it did not join within {self._fleet.site.wait_s:g} s (wait_s)"
            self._sleep(LOOK_S)
        return ""
