"""All that is measured: blocks, links, and what live traffic says of both. Pure; joins the books."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stageline.messages import Passage, Pong, Probed, Profiled, StageTime

from .doubts import Windows
from .drift import Drift
from .events import Instruction, Note, Send
from .figures import Figures, Models
from .links import Links
from .members import Members
from .network import Ends, Link
from .peers import Node, Peer, speaks_for
from .profiling import ProfileBook
from .stalls import MOST, Stalls
from .tournament import host_of
from .turns import Turns

PLAN_AROUND = 2
"""A link that was found stalled so many times in a row is planned around; the first time may be a broken connection."""


class Measuring:
    """`figures` and `links` are those of an earlier run."""

    def __init__(self, figures: Figures, links: Mapping[Ends, Link]) -> None:
        self.book = ProfileBook(figures)
        self.links = Links(links)
        self.stalls = Stalls()
        self._windows = Windows()
        self._drift = Drift()
        self._turns = Turns()

    def requests(self, nodes: Sequence[Node], members: Members, models: Models, now: float) -> Iterator[Instruction]:
        """Links first, as blocks take longer; never both at once on one host, or they would measure each other."""
        self._turns.saw({host_of(node) for node in nodes if node.name in self.book.at_work}, now)
        yield from self.links.requests(members, self.book.at_work, now)
        taken, waiting = self.links.hosts, self.links.waiting
        free = [n for n in nodes if host_of(n) not in taken and self._turns.free(host_of(n), waiting, now)]
        for node, request in self.book.requests(free, models, now):
            yield Send(node.address, request)

    def profiled(self, node: Node, message: Profiled, models: Models, now: float) -> Iterator[Instruction]:
        """A worker measured blocks."""
        yield from self.book.profiled(node, message, models, now)
        if message.error:
            yield Note("profiling failed", {"node": node.name, "reason": message.error})

    def probed(self, node: Node, message: Probed, now: float) -> Iterator[Instruction]:
        """A worker measured a link."""
        yield from self.links.probed(node, message, now)
        if message.error:
            yield Note("probing failed", {"node": node.name, "peer": message.peer, "reason": message.error})

    def observed(self, message: Pong, members: Members, models: Models, now: float) -> Iterator[Instruction]:
        """A gateway says what stages took."""
        by_node: dict[str, list[StageTime]] = {}
        for time in message.stage_times:
            by_node.setdefault(time.node, []).append(time)
        for name, times in by_node.items():
            node = members.nodes.get(name)
            if node is not None and node.present:
                yield from self._drift.observe(node, times, models, self.book, now)

    def passed(self, peer: Peer, message: Pong, members: Members, now: float) -> Iterator[Instruction]:
        """A peer says which batches passed it. A link that goes on letting nothing through is planned around."""
        for passage in message.passages:
            if not speaks_for(peer, passage.end):
                continue
            yield from self._carried(peer, passage, members, now)
            for stall in self.stalls.heard(passage, now):
                ends = (members.end(stall.source), members.end(stall.target))
                yield Note("link stalled", {"source": ends[0], "target": ends[1], "times": stall.strikes})
                if stall.strikes >= PLAN_AROUND and all(ends):
                    yield from self.links.block(ends, now)
        members.stalled = self.stalls.stalled

    def _carried(self, peer: Peer, passage: Passage, members: Members, now: float) -> Iterator[Instruction]:
        """What live traffic says of the links to `peer`; within a host there is no cable that could change.

        While it loads stages, their weights take a part of these links that nobody knows.
        """
        for flow in passage.flows[:MOST]:
            window = self._windows.heard(passage.end, flow, now)
            source = members.bearer(flow.peer) if window else None
            if window and source is not None and host_of(source) != host_of(peer):
                judge = not (isinstance(peer, Node) and peer.loading)
                yield from self.links.carried((source.identity, peer.identity), window, now, judge=judge)

    def lost(self, peer: Peer) -> None:
        """It will not answer what it was asked."""
        self.book.lost(peer.name)
        self.links.lost(peer.identity)

    def forget(self, members: Members, now: float) -> Iterator[Instruction]:
        """What old traffic said of nodes and links."""
        yield from self._drift.forget(now)
        self.stalls.forget(now)
        self._windows.forget(now)
        members.stalled = self.stalls.stalled
        yield from self.links.unblock(now)
