"""Which batches came over each link and went on over another, and how long links took for them. Pure.

Nothing is acknowledged between stages. Each end of a link remembers the newest batch that passed it, by gateway, and
tells the coordinator with its heartbeats; where what went does not come, the link between the two is at fault.

Headers say when a batch was sent, by a clock of which nothing is known but that it runs as fast as ours. So what a
batch took is known but for a constant, and what it took longer than the fastest one ever is known (the base delay of
LEDBAT, RFC 6817). The link was busy with it no longer than that, or than since the batch before it came, as one follows
the other. The smaller of both is at most what the bytes took, whatever had to wait, whoever computed: on a link
that is never idle it is just that, the time from batch to batch (delivery rate, as BBR takes it).
"""

from __future__ import annotations

from stageline.messages import Flow, Mark, Passage

FRESH_S = 5.0
"""Links over which nothing passed for so long are not spoken of."""

FORGET_S = 60.0

MOST = 1024
"""Links that are followed."""

SKEW = 1e-4
"""By so much, of the time, one clock may run faster than another: quartz is ten times better."""

JUMP_S = 60.0
"""A batch that is later than this came by a clock that was set back, or stood still with its machine."""

_Link = tuple[str, str]
"""(gateway, peer)."""

_Passed = tuple[int, int]
"""(newest batch, bytes of the largest)."""


class Passing:
    """`came`, `took` and `went` belong to the thread that receives and sends, `report` to any other."""

    def __init__(self) -> None:
        self._came: dict[_Link, _Passed] = {}
        self._went: dict[_Link, _Passed] = {}
        self._flows: dict[str, _Flow] = {}
        self._seen: dict[tuple[bool, _Link], tuple[int, float]] = {}

    def came(self, gateway: str, peer: str, batch: int) -> None:
        """A batch was received from `peer`."""
        _note(self._came, (gateway, peer), batch, 0)

    def took(self, peer: str, sent_us: int, now: float, nbytes: int) -> None:
        """What was received now, so many bytes, was sent at `sent_us` by the clock of `peer`."""
        took_s = now - sent_us * 1e-6
        flow = self._flows.get(peer)
        if flow is None:
            if len(self._flows) < MOST:
                self._flows[peer] = _Flow(took_s, now)
            return
        gap_s = now - flow.last_s
        least_s = flow.least_s + SKEW * gap_s
        late_s = took_s - least_s
        if 0.0 < late_s < JUMP_S:
            flow.busy_s += gap_s if gap_s < late_s else late_s
            flow.least_s = least_s
        else:
            flow.least_s = took_s
        flow.last_s = now
        flow.batches += 1
        flow.nbytes += nbytes

    def went(self, gateway: str, peer: str, batch: int, nbytes: int) -> None:
        """A batch was handed to the socket that leads to `peer`."""
        _note(self._went, (gateway, peer), batch, nbytes)

    def report(self, end: str, looks: int, now: float) -> Passage:
        """For the next heartbeat; what is old is forgotten."""
        came, went = self._fresh(False, self._came, now), self._fresh(True, self._went, now)
        return Passage(end=end, looks=looks, came=came, went=went, flows=self._fresh_flows(now))

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

    def _fresh_flows(self, now: float) -> tuple[Flow, ...]:
        found: list[Flow] = []
        for peer, flow in list(self._flows.items()):
            silent_s = now - flow.last_s
            if silent_s < FRESH_S:
                found.append(flow.told(peer))
            elif silent_s >= FORGET_S:
                self._flows.pop(peer, None)
        return tuple(found)


class _Flow:
    """The batches from one peer after the first, which is what they are measured from.

    `least_s`: what the fastest one took, plus the difference of the clocks.
    """

    __slots__ = ("batches", "busy_s", "last_s", "least_s", "nbytes")

    def __init__(self, took_s: float, now: float) -> None:
        self.least_s, self.last_s = took_s, now
        self.batches, self.nbytes, self.busy_s = 0, 0, 0.0

    def told(self, peer: str) -> Flow:
        return Flow(peer=peer, batches=self.batches, nbytes=self.nbytes, busy_s=self.busy_s, last_s=self.last_s)


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
