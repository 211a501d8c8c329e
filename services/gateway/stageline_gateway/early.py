"""Requests that come to a gateway that has just started, before its first plan: it cannot say yet what it serves.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stageline.data import Buffer
from stageline.errors import RejectedError
from stageline.protocol import Infer

RETRY_AFTER_S = 0.5
"""When to come back to a gateway without a plan."""


@dataclass(frozen=True)
class Arrival:
    """A client's request; times in seconds on the gateway's clock."""

    client: int
    infer: Infer
    buffers: Sequence[Buffer]
    arrived: float
    deadline: float

    @property
    def nbytes(self) -> int:
        """Of its inputs."""
        return sum(memoryview(part).nbytes for part in self.buffers)


class Early:
    """Arrivals by number, in their order; bounded by requests and bytes. None is taken in at `until` or later."""

    def __init__(self, max_count: int, max_bytes: int, until: float) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self.until = until
        self._arrivals: dict[int, Arrival] = {}
        self._by_client: dict[int, dict[int, int]] = {}
        self._last = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, number: int) -> bool:
        return number in self._arrivals

    def add(self, arrival: Arrival) -> int:
        """Let it wait; returns its number. Raises `RejectedError` when too much waits."""
        if len(self) >= self._max_count or self.nbytes + arrival.nbytes > self._max_bytes:
            raise RejectedError(
                f"{len(self)} requests of {self.nbytes} bytes wait for this gateway's first plan, and no more fit: "
                "try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        self._last += 1
        self._arrivals[self._last] = arrival
        self._by_client.setdefault(arrival.client, {})[arrival.infer.id] = self._last
        self.nbytes += arrival.nbytes
        return self._last

    def find(self, client: int, request_id: int) -> int | None:
        """The number of the client's request of that id, None if it does not wait here."""
        return self._by_client.get(client, {}).get(request_id)

    def of_client(self, client: int) -> list[int]:
        """The numbers of the client's requests."""
        return list(self._by_client.get(client, {}).values())

    def numbers(self) -> list[int]:
        """Everything that waits, in the order in which it came."""
        return list(self._arrivals)

    def get(self, number: int) -> Arrival:
        """What waits by that number."""
        return self._arrivals[number]

    def take(self, number: int) -> Arrival:
        """It waits no more."""
        arrival = self._arrivals.pop(number)
        self.nbytes -= arrival.nbytes
        mine = self._by_client[arrival.client]
        del mine[arrival.infer.id]
        if not mine:
            del self._by_client[arrival.client]
        return arrival
