"""Links: who is asked to measure which, and what comes of the answers. Pure; joins `tournament` and `network`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stageline.messages import LinkTime, Probed, ProbeRequest

from .blocks import Blocks
from .doubts import CALM_S, LONGEST_S, PAUSE_S, Doubt, Doubts, Window
from .events import Instruction, Note, PersistLinks, Send
from .members import Members
from .network import USUAL_BYTES, Ends, Link, LinkBook, Network
from .peers import Node, Peer
from .tournament import Tournament, budget_s, host_of

PATIENCE_S = 10.0
"""First measurements are used together once all are in, or after so long: each by itself would be a new problem."""

LEAST_BYTES_PER_S, MOST_BYTES_PER_S, MOST_RTT_S = 1e-3, 1e18, 1e9
"""Measurements beyond these cannot be; problems take nothing beyond either."""


class Links:
    """`links` are those of an earlier run."""

    def __init__(self, links: Mapping[Ends, Link]) -> None:
        self.book = LinkBook(dict(links))
        self._tournament = Tournament({ends for ends in links if ends[0] < ends[1]})
        self._views: tuple[object, Network] = (None, Network())
        self._settle_at = math.inf
        self.blocks = Blocks()
        self._probed: dict[Ends, float] = {}
        self._live = Doubts()
        self._doubts: dict[Ends, Doubt] = {}
        self._carried: dict[Ends, float] = {}
        self._agreed: set[Ends] = set()
        self._changed, self._pause_s = -math.inf, 0.0
        self.noticed: dict[Ends, Link] = {}
        """Links that drifted as live traffic showed, with what they were before."""

    @property
    def hosts(self) -> frozenset[str]:
        """Where a link is measured now: nothing else should be."""
        return self._tournament.hosts

    @property
    def waiting(self) -> frozenset[str]:
        """Whose links are due and wait for blocks, or other links, to be measured."""
        return self._tournament.waiting

    def requests(self, members: Members, measuring: Collection[str], now: float) -> Iterator[Instruction]:
        """Ask for what is due, beside the nodes that measure blocks, and use what is in."""
        for pair in self._tournament.overdue(now):
            yield from self._failed(pair, "no answer", now)
        peers = present(members)
        resting = {host_of(peer) for peer in peers if isinstance(peer, Node) and peer.name in measuring}
        for a, b in self._tournament.next(peers, resting, now):
            if b.hello.probe is not None:
                for ends in ((a.identity, b.identity), (b.identity, a.identity)):
                    self._carried[ends] = self._live.carried(ends, now)
                request = ProbeRequest(peer=b.identity, endpoint=b.hello.probe, budget_s=budget_s(a, b))
                yield Send(a.address, request)
        yield from self._settle(now)

    def probed(self, node: Node, message: Probed, now: float) -> Iterator[Instruction]:
        """A worker answered."""
        pair = (node.identity, message.peer)
        if message.link is None or not _sound(message.link):
            yield from self._failed(pair, message.error or "the figures make no sense", now)
            return
        self._probed[pair] = self._probed[pair[::-1]] = now
        found = dict(zip((pair, pair[::-1]), self._beside_traffic(pair, directions(message.link)), strict=True))
        sure = list[bool]()
        for ends, link in found.items():
            doubt = self._doubts.pop(ends, None)
            agrees = doubt is not None and doubt.agrees(self.book.planned.get(ends), link, USUAL_BYTES)
            self._agreed.discard(ends)
            self._agreed |= {ends} if agrees else set()
            sure.append(self.book.learn(ends, link, confirms=agrees))
        self._tournament.ended(pair, True, now, confirm=not all(sure))
        self._settle_at = min(self._settle_at, now + PATIENCE_S)
        yield from self._settle(now)

    def carried(self, ends: Ends, window: Window, now: float, *, judge: bool) -> Iterator[Instruction]:
        """What live traffic shows of a link may be a reason, where one is to `judge`, to measure it before its turn."""
        planned = self.book.planned.get(ends) if judge else None
        doubt = self._live.add(ends, window, planned, now)
        if doubt is None or planned is None or not self._tournament.knows(ends):
            return
        self._doubts[ends] = doubt
        self._tournament.again(ends, now, doubted=True)
        fields = {"slower": doubt.slower, "planned_bytes_per_s": planned.bytes_per_s, "bytes_per_s": doubt.bytes_per_s}
        yield Note("link doubted", {"source": ends[0], "target": ends[1], **fields})

    def lost(self, identity: str) -> None:
        """That peer went away, or starts anew."""
        self._tournament.lost(identity)

    def forget(self, identity: str) -> None:
        """It will not come back."""
        self.book.forget(identity)
        self.blocks.forget(identity)
        self._live.forget(identity)
        tables: tuple[dict[Ends, Any], ...] = (self._doubts, self._carried, self.noticed)
        for table in tables:
            for ends in [ends for ends in table if identity in ends]:
                del table[ends]
        self._agreed = {ends for ends in self._agreed if identity not in ends}
        self._tournament.forget(identity)

    def view(self, nodes: Sequence[Node], members: Members) -> Network:
        """The links of these nodes as planned with; the same object while nothing changes."""
        gateways = [gateway.identity for gateway in members.gateways.values() if gateway.liveness != "gone"]
        blocked = self.blocks.now
        key = (self.book.version, blocked, tuple(node.identity for node in nodes), tuple(gateways))
        if self._views[0] != key:
            self._views = (key, self.book.view(key[2], key[3], blocked))
        return self._views[1]

    def block(self, ends: Ends, now: float) -> Iterator[Instruction]:
        """Batches do not get through: plan around it for a while, and see whether probes do."""
        if self.blocks.add(ends, now):
            self._tournament.again(ends, now)
            yield Note("link broken", {"source": ends[0], "target": ends[1], "reason": "batches do not come through"})

    def unblock(self, now: float) -> Iterator[Instruction]:
        """Plan with those again whose time is over, unless they can be probed and let no probe through either."""
        for ends in self.blocks.due(now):
            if not self._tournament.knows(ends) or self._probed.get(ends, -math.inf) >= self.blocks.since(ends):
                self.blocks.remove(ends)
                yield Note("link tried again", {"source": ends[0], "target": ends[1]})

    def _failed(self, pair: Ends, reason: str, now: float) -> Iterator[Instruction]:
        if not self._tournament.ended(pair, False, now):
            return
        for ends in (pair, pair[::-1]):
            if self.book.break_off(ends):
                yield Note("link broken", {"source": ends[0], "target": ends[1], "reason": reason})

    def _beside_traffic(self, pair: Ends, found: tuple[Link, Link]) -> tuple[Link, Link]:
        """What was measured, corrected where requests passed: they took their part of the link.

        It can carry at least what they alone did before, and a round trip counts what waited, too.
        """
        ways = (pair, pair[::-1])
        carried = [self._carried.pop(ends, 0.0) for ends in ways]
        if not any(carried):
            return found

        def corrected(ends: Ends, link: Link, least: float) -> Link:
            known = self.book.planned.get(ends)
            latency_s = min(link.latency_s, known.latency_s) if known is not None else link.latency_s
            return replace(link, bytes_per_s=max(link.bytes_per_s, least), latency_s=latency_s)

        out, back = (corrected(*one) for one in zip(ways, found, carried, strict=True))
        return out, back

    def _settle(self, now: float) -> Iterator[Instruction]:
        """Use first figures once all are in, others at once, but not one by one: each is a new problem."""
        complete = self._tournament.complete or now >= self._settle_at
        changed = self.book.settle(complete, drifts=now >= self._changed + self._pause_s)
        if complete:
            self._settle_at = math.inf
        if changed:
            yield PersistLinks({ends: link for ends, (_, link) in changed.items()})
        if any(before is not None for before, _ in changed.values()):
            calm = now - self._changed >= CALM_S
            self._pause_s = PAUSE_S if calm else min(LONGEST_S, 2 * self._pause_s)
            self._changed = now
        for ends, (before, link) in changed.items():
            self.noticed.pop(ends, None)
            if before is not None:
                agreed = ends in self._agreed
                if agreed:
                    self.noticed[ends] = before
                    self._tournament.around(ends, now)
                fields = {"before_bytes_per_s": before.bytes_per_s, "bytes_per_s": link.bytes_per_s}
                fields |= {"before_latency_s": before.latency_s, "latency_s": link.latency_s}
                noticed = "traffic" if agreed else "measurements"
                yield Note("link drifted", {"source": ends[0], "target": ends[1], **fields, "noticed_by": noticed})


def present(members: Members) -> list[Peer]:
    """Nodes and gateways whose links can be measured, in a fixed order."""
    alive = (peer for peer in members.everybody if peer.liveness == "alive")
    able = [peer for peer in alive if not (peer.disconnected or peer.leaving) and peer.hello.probe]
    return sorted(able, key=lambda peer: peer.identity)


def directions(link: LinkTime) -> tuple[Link, Link]:
    """(away from, towards) who measured it; a direction's latency is half the round trip."""
    half = link.rtt_s / 2
    return (
        Link(link.out_bytes_per_s, half, link.out_error, link.rtt_error),
        Link(link.in_bytes_per_s, half, link.in_error, link.rtt_error),
    )


def _sound(link: LinkTime) -> bool:
    """Whether the figures can be, and are within what problems take."""
    rates, errors = (link.out_bytes_per_s, link.in_bytes_per_s), (link.rtt_error, link.out_error, link.in_error)
    known = all(math.isfinite(value) for value in (*rates, *errors, link.rtt_s))
    within = min(rates) >= LEAST_BYTES_PER_S and max(rates) <= MOST_BYTES_PER_S
    return known and within and 0 <= link.rtt_s <= MOST_RTT_S
