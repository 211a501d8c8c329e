"""What clients say: a request comes, is given up, or its connection closes."""

from __future__ import annotations

from dataclasses import replace

from stageline.errors import (
    CancelledError,
    DeadlineError,
    RejectedError,
    RemoteProtocolError,
    StagelineError,
    UnavailableError,
)
from stageline.protocol import Infer
from stageline_gateway import events as ev
from stageline_gateway.admission import admit, allowed_s, find_model, in_parts, no_plan
from stageline_gateway.core import Core
from stageline_gateway.deadlines import check_in_time
from stageline_gateway.dispatch import Dispatcher
from stageline_gateway.early import Arrival
from stageline_gateway.held import Held, Waiter
from stageline_gateway.inflight import HOLDER
from stageline_gateway.journaling import accept, check_journal
from stageline_gateway.timers import Timer


class Arrivals:
    """The half of the engine that takes requests in. With `draining`, nothing new is begun."""

    def __init__(self, core: Core, dispatcher: Dispatcher) -> None:
        self._core = core
        self._dispatcher = dispatcher
        self.draining = False

    def arrived(self, event: ev.RequestArrived, now: float) -> None:
        """Admit a request, or say why not."""
        core, client, infer = self._core, event.client, event.infer
        if self._unanswered(client, infer.id):
            text = f"request id {infer.id} is already in flight on this connection"
            core.emit(ev.Disconnect(client, RemoteProtocolError(text)))
            return
        try:
            deadline = now + allowed_s(infer, core.settings.default_deadline_s)
            arrival = Arrival(client, infer, event.buffers, now, deadline)
            if self._is_early(arrival, now):
                core.timers.add(min(deadline, core.early.until), Timer.EARLY, core.early.add(arrival))
            else:
                self._take(arrival, now)
        except StagelineError as error:
            self._turn_away(client, infer, error)

    def cancelled(self, event: ev.CancelRequested, now: float) -> None:
        """Give a request up; with a key, the computation ends with the last one who waits for it."""
        error = CancelledError("the request was cancelled by its client")
        early = self._core.early.find(event.client, event.id)
        if early is not None:
            self._end_early(early, error, now)
        entry = self._core.table.find(event.client, event.id)
        if entry is not None:
            self._core.refuse(entry, error, now)
        waiting = self._core.keys.waiting(event.client, event.id)
        if waiting is not None:
            held, waiter = waiting
            self._dismiss(held, waiter, error, now)
            last = self._core.table.find(HOLDER, held.number)
            if last is not None and not held.waiters:
                self._core.refuse(last, error, now)
            elif held.outcome is None and not held.waiters:
                self._core.conclude(held.number, error, held.key[1], now)

    def client_gone(self, event: ev.ClientGone, now: float) -> None:
        """Give up what the client waits for, except what has a key and was begun."""
        error = CancelledError("the client went away")
        for number in self._core.early.of_client(event.client):
            self._end_early(number, error, now)
        for entry in self._core.table.of_client(event.client):
            self._core.refuse(entry, error, now)
        self._core.keys.client_gone(event.client)

    def drain_began(self, event: ev.DrainBegan, now: float) -> None:
        """Take nothing new; what waits for the first plan was not begun."""
        self.draining = True
        for number in self._core.early.numbers():
            self._end_early(number, _stopping(), now)

    def drain_ended(self, event: ev.DrainEnded, now: float) -> None:
        """Answer what is left."""
        for entry in self._core.table:
            error = UnavailableError("the gateway stopped before the answer was there: try again", retry_after_s=1.0)
            self._core.refuse(entry, error, now)

    def waited(self, number: int, now: float) -> None:
        """The deadline of one of those who wait for a key has come; the computation may go on for others."""
        waiting = self._core.keys.waiter(number)
        if waiting is not None and waiting[1].deadline <= now:
            waited = waiting[1].deadline - waiting[1].arrived
            self._dismiss(*waiting, DeadlineError(f"the deadline of {waited:.3g} s passed while it was computed"), now)

    def begin_held(self, now: float) -> None:
        """The first plan is there: take what came before it, as if it came now, but for its times."""
        for number in self._core.early.numbers():
            if self._core.early.get(number).deadline <= now:
                self.held_too_long(number, now)
                continue
            arrival = self._core.early.take(number)
            try:
                self._take(arrival, now)
            except StagelineError as error:
                self._turn_away(arrival.client, arrival.infer, error, now - arrival.arrived)

    def held_too_long(self, number: int, now: float) -> None:
        """A request came before the first plan; its deadline has come before that, or it is to ask again."""
        if number not in self._core.early:
            return
        arrival = self._core.early.get(number)
        allowed = arrival.deadline - arrival.arrived
        text = f"the deadline of {allowed:.3g} s passed before this gateway, which has just started, had a plan"
        self._end_early(number, DeadlineError(text) if arrival.deadline <= now else no_plan(), now)

    # --- own ------------------------------------------------------------------------------------------------

    def begin(self, arrival: Arrival, owner: tuple[int, int], now: float) -> None:
        """Put a request into the table, that came now or before. Raises what it is to be refused with."""
        core = self._core
        if self.draining:
            raise _stopping()
        infer, deadline = arrival.infer, arrival.deadline
        model = find_model(core.view, infer.model)
        request = admit(model, owner, infer, arrival.buffers, arrival.arrived, deadline)
        check_in_time(core, request, now)
        parts = in_parts(model.signature, request, core.settings.max_batch)
        entries = core.table.add_parts(parts, core.capacity(model.name).retry_after_s(core.waiting(model.name)))
        for entry in entries:
            core.timers.add(deadline, Timer.DEADLINE, entry.key)
            self._dispatcher.enqueue(entry, now)

    def _unanswered(self, client: int, number: int) -> bool:
        core = self._core
        waiting = (core.table.find(client, number), core.keys.waiting(client, number), core.early.find(client, number))
        return any(found is not None for found in waiting)

    def _is_early(self, arrival: Arrival, now: float) -> bool:
        """Whether it has to wait for the first plan; what a journal restored under its key needs none."""
        core = self._core
        if core.view.plan is not None or self.draining or now >= core.early.until:
            return False
        core.keys.expire(now)
        return not arrival.infer.idempotency_key or core.keys.find(arrival.infer, arrival.buffers) is None

    def _end_early(self, number: int, error: StagelineError, now: float) -> None:
        arrival = self._core.early.take(number)
        self._turn_away(arrival.client, arrival.infer, error, now - arrival.arrived)

    def _turn_away(self, client: int, infer: Infer, error: StagelineError, waited: float = 0.0) -> None:
        """Refuse what was not begun."""
        known = "" if self._core.view.model(infer.model) is None else infer.model
        self._core.emit(ev.Refuse(client, infer.id, error, known, waited))

    def _take(self, arrival: Arrival, now: float) -> None:
        """Begin it, or let it join what has its key. Raises what it is to be refused with."""
        infer, owner = arrival.infer, (arrival.client, arrival.infer.id)
        if infer.idempotency_key:
            self._keyed(arrival, now)
            return
        self.begin(arrival, owner, now)
        if infer.want_accepted:
            self._core.emit(ev.Accept(*owner))

    def _keyed(self, arrival: Arrival, now: float) -> None:
        core, infer = self._core, arrival.infer
        core.keys.expire(now)
        held = core.keys.find(infer, arrival.buffers)
        if held is None:
            self._hold(arrival, now)
            return
        waiter = core.keys.wait(held, arrival.client, infer, arrival.arrived, arrival.deadline)
        if infer.want_accepted and held.accepted:
            core.emit(ev.Accept(arrival.client, infer.id))
        if held.outcome is not None:
            core.stats.replayed += 1
            core.keys.detach(waiter)
            core.keys.tell(held, [waiter])
            core.tell(waiter, held.outcome, infer.model, now)
        else:
            core.stats.attached += 1
            self._attach(held, waiter)

    def _hold(self, arrival: Arrival, now: float) -> None:
        core, infer = self._core, arrival.infer
        held = core.keys.begin(infer, arrival.buffers)
        try:
            check_journal(core)
            core.keys.wait(held, arrival.client, infer, arrival.arrived, arrival.deadline)
            self.begin(arrival, (HOLDER, held.number), now)
        except StagelineError:
            core.keys.forget(held)
            raise
        if core.settings.journal:
            core.emit(ev.Record(held.number, infer, arrival.buffers, arrival.deadline))
        else:
            accept(core, held)

    def _attach(self, held: Held, waiter: Waiter) -> None:
        """The computation must now last as long as the latest deadline, and each who waits no longer than its own."""
        core = self._core
        for one in held.waiters.values():
            core.timers.add(one.deadline, Timer.WAITER, one.number)
        for entry in core.table.parts(HOLDER, held.number):
            if waiter.deadline > entry.request.deadline:
                entry.request = replace(entry.request, deadline=waiter.deadline)
                core.timers.add(waiter.deadline, Timer.DEADLINE, entry.key)

    def _dismiss(self, held: Held, waiter: Waiter, error: StagelineError, now: float) -> None:
        self._core.keys.detach(waiter)
        self._core.tell(waiter, error, held.key[1], now)


def _stopping() -> RejectedError:
    return RejectedError("this gateway is stopping: try another, or again later", retry_after_s=1.0)
