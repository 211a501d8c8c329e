"""Which batches came over each link and went on over another: what localises one that was lost. Pure.

Nothing is acknowledged between stages. Each end of a link remembers the newest batch that passed it, by gateway, and
tells the coordinator with its heartbeats; where what went does not come, the link between the two is at fault.
"""

from __future__ import annotations

from stageline.messages import Mark, Passage

FRESH_S = 5.0
"""Links over which nothing passed for so long are not spoken of."""

FORGET_S = 60.0

MOST = 1024
"""Links that are followed."""

_Link = tuple[str, str]
"""(gateway, peer)."""


class Passing:
    """`came` and `went` belong to the thread that receives and sends, `report` may be called from another one."""

    def __init__(self) -> None:
        self._came: dict[_Link, int] = {}
        self._went: dict[_Link, int] = {}
        self._largest: dict[_Link, int] = {}
        self._seen: dict[tuple[bool, _Link], tuple[int, float]] = {}

    def came(self, gateway: str, peer: str, batch: int) -> None:
        """A batch was received from `peer`."""
        _note(self._came, (gateway, peer), batch)

    def went(self, gateway: str, peer: str, batch: int, nbytes: int) -> None:
        """A batch was handed to the socket that leads to `peer`."""
        link = (gateway, peer)
        _note(self._went, link, batch)
        _note(self._largest, link, nbytes)

    def report(self, end: str, looks: int, now: float) -> Passage:
        """For the next heartbeat; what is old is forgotten."""
        came = tuple(Mark(gateway=g, peer=p, batch=b) for (g, p), b in self._fresh(False, self._came, now))
        went = tuple(
            Mark(gateway=g, peer=p, batch=b, nbytes=self._largest.get((g, p), 0))
            for (g, p), b in self._fresh(True, self._went, now)
        )
        return Passage(end=end, looks=looks, came=came, went=went)

    def _fresh(self, out: bool, table: dict[_Link, int], now: float) -> list[tuple[_Link, int]]:
        found: list[tuple[_Link, int]] = []
        for link, batch in list(table.items()):
            before, since = self._seen.get((out, link), (0, now))
            if batch != before:
                since = now
                self._seen[(out, link)] = (batch, now)
            if now - since < FRESH_S:
                found.append((link, batch))
            elif now - since >= FORGET_S:
                for old in (table, self._largest) if out else (table,):
                    old.pop(link, None)
                self._seen.pop((out, link), None)
        return found


def _note(table: dict[_Link, int], link: _Link, value: int) -> None:
    """Keep the largest value of each link."""
    known = table.get(link, 0)
    if value > known and (known or len(table) < MOST):
        table[link] = value
