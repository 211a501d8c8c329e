"""The in-flight table: the one truth about accepted requests. Each leaves it exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from stageline.data import Buffer
from stageline.errors import RejectedError
from stageline.protocol import TensorSpec
from stageline_gateway.whole import Whole

Rank = tuple[int, float, int]
"""(priority, deadline, order of arrival): smaller is served first."""

HOLDER = 0
"""The `client` of a request with an idempotency key; its `id` is the holder's number. No connection owns it."""


class State(Enum):
    """Where a request is."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    DONE = "done"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.DISPATCHED, State.DONE}),
    State.DISPATCHED: frozenset({State.QUEUED, State.DONE}),
    State.DONE: frozenset(),
}
"""QUEUED to DONE is also how a late first result ends a request that already waits for another try."""


class IllegalTransitionError(Exception):
    """A defect of the gateway: the request was moved to a state that it cannot reach."""


@dataclass(frozen=True)
class Request:
    """An accepted request: inputs in the order of the signature of the model whose manifest is `manifest`.

    Times are seconds on the gateway's monotonic clock.
    """

    client: int
    id: int
    model: str
    manifest: str
    inputs: tuple[TensorSpec, ...]
    buffers: tuple[Buffer, ...]
    rows: int
    sizes: dict[str, int]
    arrived: float
    deadline: float
    priority: int = 0
    level: int = 0
    trace: str = ""
    want_timings: bool = False
    nbytes: int = 0


@dataclass
class Entry:
    """A request in the table, or part `number` of a request, whose answers its `whole` collects.

    `key` names it in batches; `current` is the batch that it waits for, 0 if none. `batches` are all that may still
    answer it (a re-dispatched one included). `alone`: it shares no batch; `suspect`: an executor died of its batch;
    `most`: items that its batch may have (0: as many as there is memory planned for).
    """

    key: int
    request: Request
    state: State = State.QUEUED
    attempts: int = 0
    current: int = 0
    batches: set[int] = field(default_factory=set)
    alone: bool = False
    suspect: bool = False
    most: int = 0
    whole: Whole | None = None
    number: int = 0

    @property
    def rank(self) -> Rank:
        """Its place in the queue, which a retry does not change."""
        return (self.request.priority, self.request.deadline, self.key)


class InFlightTable:
    """Entries by key (from `first` on), and by client and client's id; bounded by bytes and requests (not parts)."""

    def __init__(self, max_count: int, max_bytes: int, first: int = 1) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._entries: dict[int, Entry] = {}
        self._by_client: dict[int, dict[int, list[int]]] = {}
        self._last = first - 1
        self._requests = 0
        self.nbytes = 0

    @property
    def last(self) -> int:
        """The newest entry's key."""
        return self._last

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def add_parts(self, parts: Sequence[Request], retry_after_s: float) -> list[Entry]:
        """Accept a request, given in parts if there are several. Raises `RejectedError` when the table is full."""
        nbytes = sum(part.nbytes for part in parts)
        if self._requests >= self._max_count:
            raise RejectedError(
                f"{self._requests} requests are in flight, which is the limit: try again later",
                retry_after_s=retry_after_s,
            )
        if self.nbytes + nbytes > self._max_bytes:
            raise RejectedError(
                f"requests in flight hold {self.nbytes} of {self._max_bytes} bytes, {nbytes} more do not fit: "
                "try again later",
                retry_after_s=retry_after_s,
            )
        whole = Whole(len(parts)) if len(parts) > 1 else None
        self._requests += 1
        return [self._add(part, whole, number) for number, part in enumerate(parts)]

    def get(self, key: int) -> Entry | None:
        """The entry, None once it has left."""
        return self._entries.get(key)

    def find(self, client: int, request_id: int) -> Entry | None:
        """The client's unanswered request of that id."""
        return next(iter(self.parts(client, request_id)), None)

    def parts(self, client: int, request_id: int) -> list[Entry]:
        """The client's request of that id, in parts if there are several: those that are not answered."""
        return [self._entries[key] for key in self._by_client.get(client, {}).get(request_id, ())]

    def of_client(self, client: int) -> list[Entry]:
        """The client's unanswered requests."""
        return [self._entries[key] for keys in self._by_client.get(client, {}).values() for key in keys]

    def dispatch(self, entry: Entry, batch: int) -> None:
        """It travels in `batch` now."""
        _move(entry, State.DISPATCHED)
        entry.attempts += 1
        entry.current = batch
        entry.batches.add(batch)

    def requeue(self, entry: Entry) -> None:
        """It has to be dispatched again; a batch that may still answer it stays in `batches`."""
        _move(entry, State.QUEUED)
        entry.current = 0

    def leave(self, entry: Entry) -> None:
        """Its outcome is known: forget it."""
        _move(entry, State.DONE)
        del self._entries[entry.key]
        mine = self._by_client[entry.request.client]
        mine[entry.request.id].remove(entry.key)
        if not mine[entry.request.id]:
            del mine[entry.request.id]
            self._requests -= 1
        if not mine:
            del self._by_client[entry.request.client]
        self.nbytes -= entry.request.nbytes

    def count(self, state: State) -> int:
        """How many are in `state`."""
        return sum(entry.state is state for entry in self._entries.values())

    def _add(self, request: Request, whole: Whole | None, number: int) -> Entry:
        self._last += 1
        entry = Entry(self._last, request, whole=whole, number=number)
        self._entries[entry.key] = entry
        self._by_client.setdefault(request.client, {}).setdefault(request.id, []).append(entry.key)
        self.nbytes += request.nbytes
        return entry


def _move(entry: Entry, to: State) -> None:
    if to not in TRANSITIONS[entry.state]:
        raise IllegalTransitionError(f"request {entry.key} cannot go from {entry.state.value} to {to.value}")
    entry.state = to
