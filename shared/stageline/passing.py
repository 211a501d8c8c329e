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

_Passed = tuple[int, int]
"""(newest batch, bytes of the largest)."""


class Passing:
    """`came` and `went` belong to the thread that receives and sends, `report` may be called from another one."""

    def __init__(self) -> None:
        self._came: dict[_Link, _Passed] = {}
        self._went: dict[_Link, _Passed] = {}
        self._seen: dict[tuple[bool, _Link], tuple[int, float]] = {}

    def came(self, gateway: str, peer: str, batch: int) -> None:
        """A batch was received from `peer`."""
        _note(self._came, (gateway, peer), batch, 0)

    def went(self, gateway: str, peer: str, batch: int, nbytes: int) -> None:
        """A batch was handed to the socket that leads to `peer`."""
        _note(self._went, (gateway, peer), batch, nbytes)

    def report(self, end: str, looks: int, now: float) -> Passage:
        """For the next heartbeat; what is old is forgotten."""
        came = self._fresh(False, self._came, now)
        return Passage(end=end, looks=looks, came=came, went=self._fresh(True, self._went, now))

    def _fresh(self, out: bool, table: dict[_Link, _Passed], now: float) -> tuple[Mark, ...]:
        found: list[Mark] = []
        for link, (batch, nbytes) in list(table.items()):
            seen = self._seen.get((out, link))
            if seen is None or seen[0] != batch:
                seen = self._seen[(out, link)] = (batch, now)
            silent_s = now - seen[1]
            if silent_s < FRESH_S:
                found.append(Mark(gateway=link[0], peer=link[1], batch=batch, nbytes=nbytes))
            elif silent_s >= FORGET_S:
                table.pop(link, None)
                self._seen.pop((out, link), None)
        return tuple(found)


def _note(table: dict[_Link, _Passed], link: _Link, batch: int, nbytes: int) -> None:
    """Keep the largest of both."""
    known = table.get(link)
    if known is None:
        if len(table) < MOST:
            table[link] = (batch, nbytes)
        return
    newest, largest = known
    if batch > newest or nbytes > largest:
        table[link] = (batch if batch > newest else newest, nbytes if nbytes > largest else largest)
