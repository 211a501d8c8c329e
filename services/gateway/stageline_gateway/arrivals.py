"""What clients say: a request comes, is given up, or its connection closes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stageline.data import Buffer
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
from stageline_gateway.admission import admit, allowed_s, find_model, in_parts
from stageline_gateway.core import Core
from stageline_gateway.deadlines import check_in_time
from stageline_gateway.dispatch import Dispatcher
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
        if core.table.find(client, infer.id) is not None or core.keys.waiting(client, infer.id) is not None:
            text = f"request id {infer.id} is already in flight on this connection"
            core.emit(ev.Disconnect(client, RemoteProtocolError(text)))
            return
        try:
            deadline = now + allowed_s(infer, core.settings.default_deadline_s)
            if infer.idempotency_key:
                self._keyed(event, deadline, now)
            else:
                self.begin(infer, event.buffers, (client, infer.id), deadline, now)
                if infer.want_accepted:
                    core.emit(ev.Accept(client, infer.id))
        except StagelineError as error:
            known = "" if core.view.model(infer.model) is None else infer.model
            core.emit(ev.Refuse(client, infer.id, error, known))

    def cancelled(self, event: ev.CancelRequested, now: float) -> None:
        """Give a request up; with a key, the computation ends with the last one who waits for it."""
        error = CancelledError("the request was cancelled by its client")
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
        """Give up what the client waits for, except what has a key."""
        for entry in self._core.table.of_client(event.client):
            self._core.refuse(entry, CancelledError("the client went away"), now)
        self._core.keys.client_gone(event.client)

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

    # --- own ------------------------------------------------------------------------------------------------

    def begin(
        self, infer: Infer, buffers: Sequence[Buffer], owner: tuple[int, int], deadline: float, now: float
    ) -> None:
        """Put a request into the table. Raises what it is to be refused with."""
        core = self._core
        if self.draining:
            raise RejectedError("this gateway is stopping: try another, or again later", retry_after_s=1.0)
        model = find_model(core.view, infer.model)
        request = admit(model, owner, infer, buffers, now, deadline)
        check_in_time(core, request, now)
        parts = in_parts(model.signature, request, core.settings.max_batch)
        entries = core.table.add_parts(parts, core.capacity(model.name).retry_after_s(core.waiting(model.name)))
        for entry in entries:
            core.timers.add(deadline, Timer.DEADLINE, entry.key)
            self._dispatcher.enqueue(entry, now)

    def _keyed(self, event: ev.RequestArrived, deadline: float, now: float) -> None:
        core, infer = self._core, event.infer
        core.keys.expire(now)
        held = core.keys.find(infer, event.buffers)
        if held is None:
            self._hold(event, deadline, now)
            return
        waiter = core.keys.wait(held, event.client, infer, now, deadline)
        if infer.want_accepted and held.accepted:
            core.emit(ev.Accept(event.client, infer.id))
        if held.outcome is not None:
            core.stats.replayed += 1
            core.keys.detach(waiter)
            core.keys.tell(held, [waiter])
            core.tell(waiter, held.outcome, infer.model, now)
        else:
            core.stats.attached += 1
            self._attach(held, waiter)

    def _hold(self, event: ev.RequestArrived, deadline: float, now: float) -> None:
        core, infer = self._core, event.infer
        held = core.keys.begin(infer, event.buffers)
        try:
            check_journal(core)
            core.keys.wait(held, event.client, infer, now, deadline)
            self.begin(infer, event.buffers, (HOLDER, held.number), deadline, now)
        except StagelineError:
            core.keys.forget(held)
            raise
        if core.settings.journal:
            core.emit(ev.Record(held.number, infer, event.buffers, deadline))
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
