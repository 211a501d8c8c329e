"""The calls of a client, over however many connections they take: no I/O, time comes in as an argument.

A call is *unsent*, or *sent* on the current connection. A connection that breaks, or an error that another try may
cure, makes it unsent again, until its deadline or the retries are used up. Requests that may be repeated carry an
idempotency key, so that a gateway which has them in hand already does not compute them again.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import msgspec

from stageline.client.retrying import Chance, Retry
from stageline.client.tensors import Tensors
from stageline.data import Buffer
from stageline.errors import (
    ConnectionLostError,
    DeadlineError,
    InvalidInputError,
    StagelineError,
)
from stageline.protocol import Cancel, Describe, Infer, Limits, encode_frame

DEFAULT_DEADLINE_S = 60.0
GRACE_S = 2.0
"""How long after its deadline an answer is still waited for: the gateway is the one to say that it passed."""

TIMERS_KEPT = 1000
"""Up to so many timers nobody looks whether they still matter."""


@dataclass
class Call:
    """A request and what became of it so far; times in seconds on the client's monotonic clock."""

    number: int
    message: Infer | Describe
    buffers: list[Buffer]
    begun: float
    deadline: float
    give_up: float
    unsent_since: float
    attempts: int = 0
    sent: bool = False
    not_before: float = 0.0


@dataclass(frozen=True)
class Ended:
    """A call has its outcome."""

    number: int
    value: Any


class Session:
    """Not thread-safe. `key_prefix` must be unique among clients: keys are made from it and the call's number."""

    def __init__(self, retry: Retry, key_prefix: str, chance: Chance) -> None:
        self._retry = retry
        self._key_prefix = key_prefix
        self._chance = chance
        self._calls: dict[int, Call] = {}
        self._unsent: dict[int, Call] = {}
        self._timers: list[tuple[float, int]] = []
        self._last = 0
        self.limits: Limits | None = None
        self.trouble: StagelineError | None = None
        """Why there is no connection, as the last tries ended; None while there is one."""

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def waiting(self) -> bool:
        """Whether something is to be sent, now or later: a connection is needed."""
        return bool(self._unsent)

    # --- calls ----------------------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        tensors: Tensors,
        now: float,
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        trace_id: str = "",
        idempotency_key: str = "",
    ) -> Call:
        """A new call. Raises `InvalidInputError` or `DeadlineError` for what the gateway would not take anyhow.

        The tensors must not change until the call has ended.
        """
        if deadline_s is not None and not (isinstance(deadline_s, Real) and math.isfinite(deadline_s)):
            raise InvalidInputError(f"deadline_s must be a number of seconds, got {deadline_s!r:.80}")
        if deadline_s is not None and deadline_s <= 0:
            raise DeadlineError(f"the deadline had passed before the request was sent: {deadline_s:g} s were left")
        specs, buffers = tensors
        self._check_size(buffers)
        number = self._next()
        message = Infer(
            number,
            model,
            specs,
            priority=priority,
            deadline_ms=0.0 if deadline_s is None else deadline_s * 1000,
            trace_id=trace_id,
            idempotency_key=idempotency_key or (f"{self._key_prefix}-{number}" if self._retry.attempts > 1 else ""),
            want_timings=True,
        )
        default = self.limits.default_deadline_ms / 1000 if self.limits else 0.0
        return self._begin(message, buffers, now, deadline_s or default or DEFAULT_DEADLINE_S, GRACE_S)

    def describe(self, model: str | None, now: float, timeout_s: float) -> Call:
        """A new call."""
        return self._begin(Describe(self._next(), model), [], now, timeout_s, 0.0)

    def cancel(self, number: int) -> list[Buffer]:
        """Forget a call; what to send, if the gateway has it."""
        call = self._calls.pop(number, None)
        self._unsent.pop(number, None)
        return encode_frame(Cancel(number)) if call is not None and call.sent else []

    # --- what the connection does ---------------------------------------------------------------------------

    def take(self, now: float) -> list[Buffer]:
        """What to write now on the connection, which has greeted."""
        pieces: list[Buffer] = []
        for call in [call for call in self._unsent.values() if call.not_before <= now]:
            del self._unsent[call.number]
            pieces += encode_frame(self._message(call, now), call.buffers)
            call.attempts += 1
            call.sent = True
        return pieces

    def answered(self, number: int, value: Any, now: float) -> Ended | None:
        """A call's answer, None if nobody waits for it or it is tried again."""
        call = self._calls.get(number)
        if call is None or not call.sent:
            return None
        if isinstance(value, StagelineError) and value.retryable:
            pause = self._retry.pause_s(call.attempts, self._chance(), value.retry_after_s or 0.0)
            if self._again(call, now + pause):
                return None
        return self._end(call, value)

    def lost(self, error: StagelineError, now: float) -> list[Ended]:
        """The connection broke; what ends with it."""
        ended: list[Ended] = []
        for call in [call for call in self._calls.values() if call.sent]:
            call.unsent_since = now
            if not error.retryable or not self._again(call, now):
                ended.append(self._end(call, error))
        return ended

    def connected(self, limits: Limits | None) -> None:
        """A gateway has greeted, and said how much it takes."""
        self.limits, self.trouble = limits, None

    def apart(self, trouble: StagelineError, now: float, *, all_tried: bool) -> list[Ended]:
        """There is no connection, for that reason; what ends once `all_tried`, every gateway in turn."""
        self.trouble = trouble
        return self.unreachable(trouble, now) if all_tried else []

    def unreachable(self, error: StagelineError, now: float) -> list[Ended]:
        """No gateway could be reached; which calls have waited for one for too long."""
        patience = self._retry.reconnect_s if error.retryable else 0.0
        late = [call for call in self._unsent.values() if now >= call.unsent_since + patience]
        return [self._end(call, error) for call in late]

    def due(self, now: float) -> list[Ended]:
        """Which calls have run out of time."""
        ended: list[Ended] = []
        while self._timers and self._timers[0][0] <= now:
            _, number = heapq.heappop(self._timers)
            call = self._calls.get(number)
            if call is None:
                continue
            if now >= (call.give_up if call.sent else call.deadline):
                ended.append(self._end(call, self._too_late(call)))
            elif now >= call.deadline:
                self._wake(call.give_up, call)
        return ended

    def end(self, error: StagelineError) -> list[Ended]:
        """The client is closed: everything ends."""
        return [self._end(call, error) for call in list(self._calls.values())]

    def wake_at(self) -> float | None:
        """When to `take` or ask for what is `due` again."""
        while self._timers and self._timers[0][1] not in self._calls:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    # --- own ------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _begin(
        self, message: Infer | Describe, buffers: list[Buffer], now: float, deadline_s: float, grace_s: float
    ) -> Call:
        deadline = now + deadline_s
        call = Call(message.id, message, buffers, now, deadline, deadline + grace_s, now)
        self._calls[call.number] = self._unsent[call.number] = call
        self._wake(deadline, call)
        return call

    def _wake(self, at: float, call: Call) -> None:
        heapq.heappush(self._timers, (at, call.number))
        if len(self._timers) > TIMERS_KEPT + 4 * len(self._calls):
            self._timers = [timer for timer in self._timers if timer[1] in self._calls]
            heapq.heapify(self._timers)

    def _again(self, call: Call, at: float) -> bool:
        if call.attempts >= self._retry.attempts or at >= call.deadline:
            return False
        call.sent, call.not_before = False, at
        self._unsent[call.number] = call
        self._wake(at, call)
        return True

    def _end(self, call: Call, value: Any) -> Ended:
        del self._calls[call.number]
        self._unsent.pop(call.number, None)
        return Ended(call.number, value)

    def _message(self, call: Call, now: float) -> Infer | Describe:
        """With the time that is left, unless it is still what was asked for."""
        if isinstance(call.message, Describe) or now == call.begun:
            return call.message
        left_ms = max((call.deadline - now) * 1000, 0.001)
        return msgspec.structs.replace(call.message, deadline_ms=left_ms)

    def _too_late(self, call: Call) -> StagelineError:
        allowed = call.deadline - call.begun
        if call.sent:
            return DeadlineError(f"the gateway did not answer within {allowed:.3g} s: is it overloaded or frozen?")
        if self.trouble is not None:
            said = f"no gateway took the request within its deadline of {allowed:.3g} s: {self.trouble.message}"
            return ConnectionLostError(f"{said} (start one there, or give the address of another, too)")
        return DeadlineError(f"the deadline of {allowed:.3g} s passed before a gateway took the request")

    def _check_size(self, buffers: Sequence[Buffer]) -> None:
        size = sum(memoryview(b).nbytes for b in buffers)
        if self.limits is not None and size > self.limits.max_request_bytes:
            limit = self.limits.max_request_bytes
            raise InvalidInputError(f"the request has {size} bytes, the gateway takes {limit}: send a smaller batch")


def closed_error() -> ConnectionLostError:
    """What ends the calls of a client that is closed."""
    return ConnectionLostError("the client was closed")
