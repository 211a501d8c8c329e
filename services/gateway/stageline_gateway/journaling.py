"""What the journal means to the engine: who may be told that it is accepted, and what comes back after a restart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from stageline.errors import DeadlineError, RejectedError, StagelineError
from stageline_gateway import events as ev
from stageline_gateway.admission import allowed_s
from stageline_gateway.core import Core
from stageline_gateway.early import Arrival
from stageline_gateway.held import Held
from stageline_gateway.inflight import HOLDER
from stageline_gateway.timers import Timer

RETRY_AFTER_S = 1.0

Begin = Callable[[Arrival, tuple[int, int], float], None]
"""`Arrivals.begin`."""


class Journaling:
    """Requests of before a restart wait here until a plan has their model."""

    def __init__(self, core: Core, begin: Begin) -> None:
        self._core = core
        self._begin = begin
        self._waiting: dict[int, ev.RestoredRequest] = {}

    def recorded(self, event: ev.Recorded, now: float) -> None:
        """They are on the disk: now they are accepted."""
        for number in event.numbers:
            held = self._core.keys.held(number)
            if held is not None:
                accept(self._core, held)

    def failed(self, event: ev.RecordingFailed, now: float) -> None:
        """They could not be written down: take them back, for nobody was told that they are accepted."""
        core = self._core
        core.journal_fault = event.reason
        for number in event.numbers:
            entry = core.table.find(HOLDER, number)
            if entry is not None:
                core.refuse(entry, _cannot_be_written(event.reason), now)

    def works(self, event: ev.RecordingWorks, now: float) -> None:
        """It can be written again."""
        self._core.journal_fault = ""

    def restored(self, event: ev.Restored, now: float) -> None:
        """Take over what was accepted before, and the answers that were kept."""
        core = self._core
        core.keys.begin_above(event.last)
        for one in sorted(event.requests, key=lambda one: one.until):
            held = core.keys.restore(one.number, one.infer, one.buffers)
            held.accepted = True
            if one.outcome is not None:
                core.keys.keep(held, one.outcome, min(one.until, now + core.settings.answer_keep_s))
            else:
                allowed = allowed_s(one.infer, core.settings.default_deadline_s)  # the clock may have jumped back
                self._waiting[one.number] = replace(one, until=min(one.until, now + allowed))
                core.timers.add(self._waiting[one.number].until, Timer.RESTORED, one.number)
        core.keys.expire(now)
        core.wake_for_kept()

    def resume(self, now: float) -> None:
        """There is a new plan: begin what it has the model of."""
        core = self._core
        for number, one in list(self._waiting.items()):
            held = core.keys.held(number)
            if held is not None and core.view.model(one.infer.model) is None:
                continue
            del self._waiting[number]
            if held is None:
                continue
            try:
                arrival = Arrival(HOLDER, one.infer, one.buffers, now, _deadline(one, held))
                self._begin(arrival, (HOLDER, number), now)
            except StagelineError as error:
                core.conclude(number, error, one.infer.model, now)

    def late(self, number: int, now: float) -> None:
        """The deadline of a request of before the restart has come."""
        one, held = self._waiting.get(number), self._core.keys.held(number)
        if one is None or held is None:
            self._waiting.pop(number, None)
            return
        deadline = _deadline(one, held)
        if deadline > now:
            self._core.timers.add(deadline, Timer.RESTORED, number)
            return
        del self._waiting[number]
        error = DeadlineError("the deadline passed before the gateway, which was restarted, could serve the model")
        self._core.conclude(number, error, one.infer.model, now)


def _deadline(one: ev.RestoredRequest, held: Held) -> float:
    """Its own, or the latest of those who wait for it."""
    return max(one.until, *(waiter.deadline for waiter in held.waiters.values()), 0.0)


def accept(core: Core, held: Held) -> None:
    """The request is accepted: tell those who want to know."""
    held.accepted = True
    for waiter in held.waiters.values():
        if waiter.want_accepted:
            core.emit(ev.Accept(waiter.client, waiter.id))


def check_journal(core: Core) -> None:
    """Raises `RejectedError` while the journal cannot be written: a promise could not be kept."""
    if core.journal_fault:
        raise _cannot_be_written(core.journal_fault)


def _cannot_be_written(reason: str) -> RejectedError:
    text = f"this gateway's journal cannot be written ({reason}): try another gateway, or again later"
    return RejectedError(text, retry_after_s=RETRY_AFTER_S)
