"""One model's queue: by priority (lower numbers first, 0 is the default), then deadline, then arrival.

Requests wait in groups of equal shape, because only those can share a batch. A group is ready when a full batch
waits, or its oldest request has waited for the batch delay, or its first must run alone anyway.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable
from dataclasses import dataclass, field

from stageline_gateway.inflight import Rank


@dataclass(frozen=True, order=True)
class Waiting:
    """A queued request of `rows` items that entered the queue at `since` (seconds).

    At most `limit` items may share its batch: the same for all of one group. A larger request has its own batch.
    """

    rank: Rank
    key: int = field(compare=False)
    rows: int = field(compare=False)
    since: float = field(compare=False)
    limit: int = field(compare=False)
    alone: bool = field(compare=False, default=False)


class ModelQueue:
    """The first of a batch waits up to `delay_s` seconds for company."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._groups: dict[Hashable, list[Waiting]] = {}
        self._where: dict[int, tuple[Hashable, Waiting]] = {}
        self.rows = 0
        """Items that wait."""

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: int) -> bool:
        return key in self._where

    def keys(self) -> list[int]:
        """Everything that waits, in no order."""
        return list(self._where)

    def push(self, group: Hashable, item: Waiting) -> None:
        """Let a request wait among those of equal `group`."""
        insort(self._groups.setdefault(group, []), item)
        self._where[item.key] = (group, item)
        self.rows += item.rows

    def remove(self, key: int) -> None:
        """Take a request out; nothing happens if it does not wait here."""
        found = self._where.pop(key, None)
        if found is None:
            return
        group, item = found
        self.rows -= item.rows
        items = self._groups[group]
        del items[bisect_left(items, item)]
        if not items:
            del self._groups[group]

    def rows_before(self, rank: Rank) -> int:
        """Items that rank better."""
        before = (items[: bisect_left(items, rank, key=lambda item: item.rank)] for items in self._groups.values())
        return sum(item.rows for items in before for item in items)

    def next_batch(self, now: float, share: int) -> list[Waiting]:
        """The ready batch whose first request ranks best, cut to `share` items; empty if none is ready.

        Nothing is removed.
        """
        best: list[Waiting] = []
        for items in self._groups.values():
            if best and best[0].rank <= items[0].rank:
                continue
            members = self._members(items)
            if self._ready_at(items, members) <= now:
                best = members
        return _within(best, share)

    def wake_at(self, now: float) -> float | None:
        """When the next group becomes ready that is not ready yet."""
        times = [self._ready_at(items, self._members(items)) for items in self._groups.values()]
        return min((t for t in times if t > now), default=None)

    def _members(self, items: list[Waiting]) -> list[Waiting]:
        return _within(items, items[0].limit)

    def _ready_at(self, items: list[Waiting], members: list[Waiting]) -> float:
        full = len(members) < len(items) or sum(m.rows for m in members) >= items[0].limit
        if full or members[0].alone:
            return float("-inf")
        return min(m.since for m in members) + self._delay_s


def _within(items: list[Waiting], limit: int) -> list[Waiting]:
    """The first items that may share a batch of `limit` items; the very first always."""
    members = items[:1]
    rows = sum(item.rows for item in members)
    if members and not members[0].alone:
        for item in items[1:]:
            rows += item.rows
            if item.alone or rows > limit:
                break
            members.append(item)
    return members
