"""Links that let nothing through, as the coordinator finds them: which paths avoid them, and when to try them again.

A link is named by its ends as headers name them: executors by their ids, gateways by name and incarnation. While it
counts as stalled it is used only where there is no other way, and then by one batch at a time, later each time that
nothing came of it; the first result over it ends that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stageline.plan import Replica, StalledLink
from stageline_gateway.batching import Batch, Path

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 4.0
"""Between two tries over a stalled link; doubled each time."""

FORGET_S = 30.0
"""Without a word from the coordinator for so long, a link is taken to be as good as any."""

Ends = tuple[str, str]


@dataclass
class _Stall:
    number: int
    told: float
    try_at: float
    pause_s: float = FIRST_PAUSE_S
    trusted: bool = False


class StalledLinks:
    """`gateway` is this gateway's own name in headers. Times are seconds on its monotonic clock."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._links: dict[Ends, _Stall] = {}

    def __bool__(self) -> bool:
        return bool(self._links)

    def update(self, stalled: Sequence[StalledLink], now: float) -> set[Ends]:
        """Take in what a digest says; returns the links over which something was found to be lost since the last."""
        told = {(link.source, link.target): link.number for link in stalled}
        fresh: set[Ends] = set()
        for ends, number in told.items():
            known = self._links.get(ends)
            if known is None:
                known = self._links[ends] = _Stall(0, now, now)
            if number != known.number:
                fresh.add(ends)
                known.number, known.trusted = number, False
            known.told = now
        self._links = {
            ends: stall for ends, stall in self._links.items() if ends in told and now - stall.told < FORGET_S
        }
        return fresh

    def crosses(self, batch: Batch, links: set[Ends]) -> bool:
        """Whether the batch's path leads over one of them."""
        return any(ends in links for ends in self._of(batch.path))

    def trust(self, path: Path) -> None:
        """A result came over this path."""
        for ends in self._of(path):
            if ends in self._links:
                self._links[ends].trusted = True

    def choose(self, stages: Sequence[Sequence[Replica]], now: float) -> Path | None:
        """The first path, each stage's replicas in the order given, without a stalled link; else one that is due a try.

        None: all ways lead over stalled links, and none of them is due.
        """
        for limit in (None, now):
            path = self._search(stages, (), limit)
            if path is not None:
                for stall in self._stalled(path):
                    stall.try_at = now + stall.pause_s
                    stall.pause_s = min(LONGEST_PAUSE_S, 2 * stall.pause_s)
                return path
        return None

    def next_try(self) -> float | None:
        """When the next link may be tried again."""
        return min((stall.try_at for stall in self._links.values() if not stall.trusted), default=None)

    def _search(self, stages: Sequence[Sequence[Replica]], path: Path, due: float | None) -> Path | None:
        """Depth first. `due` None: without stalled links."""
        if len(path) == len(stages):
            return path if self._open(path[-1].executor, self._gateway, due) else None
        source = path[-1].executor if path else self._gateway
        for replica in stages[len(path)]:
            if self._open(source, replica.executor, due):
                found = self._search(stages, (*path, replica), due)
                if found is not None:
                    return found
        return None

    def _open(self, source: str, target: str, due: float | None) -> bool:
        stall = self._links.get((source, target))
        return stall is None or stall.trusted or (due is not None and stall.try_at <= due)

    def _stalled(self, path: Path) -> Iterator[_Stall]:
        for ends in self._of(path):
            stall = self._links.get(ends)
            if stall is not None and not stall.trusted:
                yield stall

    def _of(self, path: Path) -> Iterator[Ends]:
        source = self._gateway
        for replica in path:
            yield (source, replica.executor)
            source = replica.executor
        yield (source, self._gateway)
