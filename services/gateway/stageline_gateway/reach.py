"""Whom this gateway reaches: what its own connections to executors tell, so that it needs nobody else to see a death.

A process that dies takes its connections along, one that is frozen answers no heartbeats, and neither answers when a
connection is to be made again. One that is merely reset, or that we neglected ourselves while we stood still, is back
before `GRACE_S` is over, and nothing is concluded from it. Pure; times in seconds.
"""

from __future__ import annotations

from stageline_gateway import events as ev
from stageline_gateway.core import Core
from stageline_gateway.outcomes import Outcomes
from stageline_gateway.routing import addresses
from stageline_gateway.timers import Timer

GRACE_S = 0.25


class Reach:
    """Keeps the view's `cut_off`."""

    def __init__(self, core: Core, outcomes: Outcomes) -> None:
        self._core = core
        self._outcomes = outcomes
        self._down: dict[str, float] = {}

    def changed(self, event: ev.LinkChanged, now: float) -> None:
        """A connection came or went."""
        if event.up:
            self._down.pop(event.address, None)
            self.look(now)
        elif event.address not in self._down:
            self._down[event.address] = now
            self._core.timers.add(now + GRACE_S, Timer.REACH)

    def look(self, now: float) -> None:
        """Time has passed, or the plan has changed: who is cut off now? What is in flight there goes elsewhere."""
        view = self._core.view
        known = addresses(view.plan, self._core.identity.reply.host) if view.plan is not None else {}
        self._down = {address: since for address, since in self._down.items() if address in known}
        view.cut_off = {known[address] for address, since in self._down.items() if now >= since + GRACE_S}
        self._outcomes.check_paths(now)
