"""All that is measured: blocks, links, and what live traffic says of both. Pure; joins the books."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stageline.messages import Pong, Probed, Profiled, StageTime

from .drift import Drift
from .events import Instruction, Note, Send
from .figures import Figures, Models
from .links import Links
from .members import Members
from .network import Ends, Link
from .peers import Node, Peer
from .profiling import ProfileBook
from .tournament import host_of


class Measuring:
    """`figures` and `links` are those of an earlier run."""

    def __init__(self, figures: Figures, links: Mapping[Ends, Link]) -> None:
        self.book = ProfileBook(figures)
        self.links = Links(links)
        self._drift = Drift()

    def requests(self, nodes: Sequence[Node], members: Members, models: Models, now: float) -> Iterator[Instruction]:
        """Links first, as blocks take longer; never both at once on one host, or they would measure each other."""
        yield from self.links.requests(members, self.book.at_work, now)
        free = [node for node in nodes if host_of(node) not in self.links.hosts]
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

    def lost(self, peer: Peer) -> None:
        """It will not answer what it was asked."""
        self.book.lost(peer.name)
        self.links.lost(peer.identity)

    def forget(self, now: float) -> Iterator[Instruction]:
        """What old traffic said of nodes."""
        yield from self._drift.forget(now)
