"""Idempotency keys: every key has one computation and one outcome, however many requests ask with it.

A request with a key belongs to no connection: it is *held* here, and the requests that came with the key wait for it.
The first begins it, later ones attach; a connection that closes takes its waiters along and leaves the computation
alone. Results and failures are kept for a while for those who come back. What ended for a reason that another try may
cure (deadline, cancelled, unavailable) is forgotten, so that the key is free again.

Keys are told apart by user and model. Times are seconds on the gateway's monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from stageline.data import Buffer
from stageline.errors import InvalidInputError, RejectedError
from stageline.protocol import Infer
from stageline_gateway.held import KEPT, Answered, Held, Key, Outcome, Waiter

RECORD_BYTES = 1024
"""What a kept outcome is charged beyond its tensors."""


class Keys:
    """Everything held. `keep_s` and `keep_bytes` bound what is kept after it ended, `max_waiting` who waits.

    When bytes run out, what was told to a client that is still connected goes first: it will hardly ask again.
    """

    def __init__(self, keep_s: float, keep_bytes: int, max_waiting: int) -> None:
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._max_waiting = max_waiting
        self._by_key: dict[Key, Held] = {}
        self._by_number: dict[int, Held] = {}
        self._where: dict[int, Held] = {}
        self._by_client: dict[int, dict[int, int]] = {}
        self._kept: OrderedDict[Key, Held] = OrderedDict()
        self._told: OrderedDict[Key, Held] = OrderedDict()
        self._told_by_client: dict[int, set[Key]] = {}
        self._last = 0
        self._freed: list[int] = []
        self.kept_bytes = 0

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._where)

    @property
    def kept(self) -> int:
        """How many outcomes are kept."""
        return len(self._kept)

    # --- a request comes ------------------------------------------------------------------------------------

    def find(self, infer: Infer, buffers: Sequence[Buffer]) -> Held | None:
        """Who holds the key. Raises `InvalidInputError` if that is for another content."""
        held = self._by_key.get(key_of(infer))
        if held is not None and not _same(held, infer, buffers):
            raise InvalidInputError(
                f"idempotency key {infer.idempotency_key!r:.80} was used with other inputs: "
                "use a new key for a new request"
            )
        return held

    def begin(self, infer: Infer, buffers: Sequence[Buffer]) -> Held:
        """Hold a key that nobody holds; `number` names it in the in-flight table."""
        self._last += 1
        return self._hold(self._last, infer, buffers)

    def restore(self, number: int, infer: Infer, buffers: Sequence[Buffer]) -> Held:
        """Hold a key as before a restart; `number` is not used again. One that was left over gives way."""
        self._last = max(self._last, number)
        old = self._by_key.get(key_of(infer))
        if old is not None:
            self.forget(old)
        return self._hold(number, infer, buffers)

    def begin_above(self, number: int) -> None:
        """Numbers up to this one were used before a restart."""
        self._last = max(self._last, number)

    def take_freed(self) -> list[int]:
        """The numbers of what was forgotten since the last time."""
        freed, self._freed = self._freed, []
        return freed

    def forget(self, held: Held) -> None:
        """The key is free."""
        del self._by_key[held.key]
        self._by_number.pop(held.number, None)
        self._freed.append(held.number)
        for waiter in list(held.waiters.values()):
            self.detach(waiter)
        if self._kept.pop(held.key, None) is not None:
            self.kept_bytes -= held.nbytes
        for client in list(held.told):
            self._untell(held, client)

    def wait(self, held: Held, client: int, infer: Infer, arrived: float, deadline: float) -> Waiter:
        """Let a client's request wait for the outcome. Raises `RejectedError` when too many wait."""
        if len(self._where) >= self._max_waiting:
            raise RejectedError(
                f"{len(self._where)} requests wait, which is the limit: try again later", retry_after_s=0.1
            )
        self._last += 1
        waiter = Waiter(self._last, client, infer.id, arrived, deadline, infer.want_timings, infer.want_accepted)
        held.waiters[waiter.number] = waiter
        self._where[waiter.number] = held
        self._by_client.setdefault(client, {})[infer.id] = waiter.number
        return waiter

    # --- or goes --------------------------------------------------------------------------------------------

    def waiting(self, client: int, request_id: int) -> tuple[Held, Waiter] | None:
        """The client's unanswered request of that id."""
        return self.waiter(self._by_client.get(client, {}).get(request_id, 0))

    def waiter(self, number: int) -> tuple[Held, Waiter] | None:
        """The waiter of that number, None once it has left."""
        held = self._where.get(number)
        return None if held is None else (held, held.waiters[number])

    def held(self, number: int) -> Held | None:
        """What the in-flight table knows by this number, None once it has ended."""
        return self._by_number.get(number)

    def detach(self, waiter: Waiter) -> None:
        """The waiter waits no more."""
        del self._where.pop(waiter.number).waiters[waiter.number]
        mine = self._by_client[waiter.client]
        if mine.get(waiter.id) == waiter.number:
            del mine[waiter.id]
        if not mine:
            del self._by_client[waiter.client]

    def client_gone(self, client: int) -> None:
        """The connection closed: its waiters leave, and what it was told may not have reached it."""
        for number in list(self._by_client.get(client, {}).values()):
            self.detach(self._where[number].waiters[number])
        for key in list(self._told_by_client.get(client, ())):
            self._untell(self._told[key], client)

    # --- the outcome ----------------------------------------------------------------------------------------

    def conclude(self, number: int, outcome: Outcome, now: float) -> list[Waiter]:
        """The computation ended: who is to be told."""
        held = self._by_number.pop(number)
        waiters = list(held.waiters.values())
        if not isinstance(outcome, KEPT):
            self.forget(held)
            return waiters
        for waiter in waiters:
            self.detach(waiter)
        self.keep(held, outcome, now + self._keep_s)
        self.tell(held, waiters)
        self.expire(now)
        return waiters

    def keep(self, held: Held, outcome: Outcome, expires: float) -> None:
        """Keep an outcome; the expiries must not go back."""
        self._by_number.pop(held.number, None)
        parts = outcome.buffers if isinstance(outcome, Answered) else ()
        inputs = sum(memoryview(part).nbytes for _, part in held.tensors.values())
        held.outcome = outcome
        held.nbytes = RECORD_BYTES + inputs + sum(memoryview(part).nbytes for part in parts)
        held.expires = expires
        self._kept[held.key] = held
        self.kept_bytes += held.nbytes

    def tell(self, held: Held, waiters: Sequence[Waiter]) -> None:
        """The waiters' clients are sent the kept outcome."""
        for waiter in waiters:
            held.told.add(waiter.client)
            self._told[held.key] = held
            self._told_by_client.setdefault(waiter.client, set()).add(held.key)

    def _untell(self, held: Held, client: int) -> None:
        held.told.discard(client)
        if not held.told:
            del self._told[held.key]
        keys = self._told_by_client[client]
        keys.discard(held.key)
        if not keys:
            del self._told_by_client[client]

    def expire(self, now: float) -> None:
        """Forget what was kept for long enough, and what is too much."""
        while self._kept and next(iter(self._kept.values())).expires <= now:
            self.forget(next(iter(self._kept.values())))
        while self.kept_bytes > self._keep_bytes:
            self.forget(next(iter((self._told or self._kept).values())))

    def next_expiry(self) -> float | None:
        """When something kept may be forgotten."""
        return next(iter(self._kept.values())).expires if self._kept else None

    def _hold(self, number: int, infer: Infer, buffers: Sequence[Buffer]) -> Held:
        tensors = {spec.name: (spec, part) for spec, part in zip(infer.inputs, buffers, strict=True)}
        held = Held(key_of(infer), infer.level, tensors, number)
        self._by_key[held.key] = self._by_number[number] = held
        return held


def key_of(infer: Infer) -> Key:
    """What the request's key is told apart by."""
    return (infer.user, infer.model, infer.idempotency_key)


def _same(held: Held, infer: Infer, buffers: Sequence[Buffer]) -> bool:
    if held.level != infer.level or len(infer.inputs) != len(held.tensors):
        return False
    for spec, part in zip(infer.inputs, buffers, strict=True):
        have = held.tensors.get(spec.name)
        if have is None or have[0] != spec or memoryview(have[1]) != memoryview(part):
            return False
    return True
