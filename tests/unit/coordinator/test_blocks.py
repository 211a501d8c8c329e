"""Links that batches do not come through are planned around, and tried again later each time."""

from __future__ import annotations

import itertools

from fleet import MB, Fleet, link, manifest

from stageline.messages import Mark, Passage, Pong
from stageline_coordinator.blocks import FIRST_S, GROWTH, LONGEST_S, Blocks
from stageline_coordinator.network import BLOCKED, FREE, Link, LinkBook

AB = ("agent:a", "agent:b")


def test_each_block_is_longer_than_the_one_before_up_to_a_limit() -> None:
    blocks, now = Blocks(), 0.0
    lengths = []
    for _ in range(6):
        assert blocks.add(AB, now) and not blocks.add(AB, now)
        assert blocks.now == {AB} and not blocks.due(now)
        begun = now
        while not blocks.due(now):
            now += 1.0
        lengths.append(now - begun)
        blocks.remove(AB)
        assert not blocks.now
    assert lengths[:3] == [FIRST_S, FIRST_S * GROWTH, FIRST_S * GROWTH**2]
    assert max(lengths) == LONGEST_S


def test_a_blocked_link_is_avoided_and_the_others_are_what_they_were() -> None:
    book = LinkBook({("agent:a", "agent:b"): Link(5e6, 0.1), ("agent:b", "agent:a"): Link(9e6, 0.3)})
    links = book.view(["agent:a", "agent:b"], [], {AB}).links
    assert links is not None
    assert links.bandwidth_bytes_per_s[0][1] == BLOCKED.bytes_per_s and links.bandwidth_bytes_per_s[1][0] == 9e6
    nothing = LinkBook({}).view(["agent:a", "agent:b"], ["gateway:g"], {AB, ("gateway:g", "agent:b")})
    assert nothing.links is not None and nothing.ingress is not None and nothing.egress is None
    assert nothing.links.bandwidth_bytes_per_s[1][0] == FREE.bytes_per_s
    assert nothing.ingress.bandwidth_bytes_per_s == (FREE.bytes_per_s, BLOCKED.bytes_per_s)


class Swallowing:
    """A fleet whose workers tell of batches that go from one to the next, and of those that come."""

    def __init__(self, links: bool) -> None:
        self.fleet = Fleet()
        self.fleet.add(manifest(blocks=4))
        names = ["n0", "n1", "n2"]
        for name in names:
            known = {f"agent:{other}": link(100.0) for other in names} if links else None
            self.fleet.join(name, memory=25 * MB, links=known)
        self.fleet.pass_time(2.0)
        self.sent = self.looks = 0

    def run(self, swallowed: tuple[str, str], seconds: float) -> None:
        """Everything comes but what goes over that link."""
        for _ in range(round(seconds / 0.1)):
            self.sent += 1
            self.looks += 1
            hosts = self.fleet.hosts()
            for name in hosts:
                before = hosts[hosts.index(name) - 1] if hosts.index(name) else ""
                after = hosts[hosts.index(name) + 1] if name != hosts[-1] else ""
                lost = (before, name) == swallowed
                came = (self._mark(before),) if before and not lost else ()
                went = (self._mark(after),) if after else ()
                passage = Passage(end=self.fleet.agents[name].executor, looks=self.looks, came=came, went=went)
                pong = Pong(sequence=1, sent_s=0.0, incarnation="i1", passages=(passage,))
                self.fleet.say(f"agent:{name}", pong)
            self.fleet.pass_time(0.1, 0.1)

    def _mark(self, node: str) -> Mark:
        return Mark(gateway="g/1", peer=self.fleet.agents[node].executor, batch=self.sent, nbytes=100)


def hops(fleet: Fleet) -> set[tuple[str, str]]:
    hosts = fleet.hosts()
    return set(itertools.pairwise(hosts))


def test_a_link_that_swallows_batches_is_told_at_once_then_planned_around_and_its_ends_stay() -> None:
    world = Swallowing(links=False)
    bad = tuple(world.fleet.hosts()[:2])
    assert len(bad) == 2
    world.run(bad, 0.6)  # type: ignore[arg-type]
    (stalled,) = world.fleet.digests[-1].stalled
    assert (stalled.source, stalled.target) == tuple(world.fleet.agents[name].executor for name in bad)
    world.run(bad, 2.0)  # type: ignore[arg-type]
    assert bad not in hops(world.fleet)
    assert all(node.state == "alive" for node in world.fleet.cluster.members.nodes.values())
    plans = len(world.fleet.plans)
    world.run(bad, FIRST_S / 2)  # type: ignore[arg-type]
    assert len(world.fleet.plans) == plans, "the plan stays"


def test_a_link_that_can_be_probed_is_used_again_only_when_probes_come_through() -> None:
    world = Swallowing(links=True)
    bad = tuple(world.fleet.hosts()[:2])
    for name in bad:
        for other in bad:
            (world.fleet.agents[name].links or {}).pop(f"agent:{other}", None)
    ends = (f"agent:{bad[0]}", f"agent:{bad[1]}")
    links = world.fleet.cluster.measuring.links
    world.run(bad, 3.0)  # type: ignore[arg-type]
    assert ends in links.blocks.now
    world.fleet.pass_time(3 * FIRST_S)
    assert ends in links.blocks.now
    for name in bad:
        world.fleet.agents[name].links |= {f"agent:{other}": link(100.0) for other in bad}  # type: ignore[operator]
    world.fleet.pass_time(120.0)
    assert ends not in links.blocks.now


def test_what_somebody_says_of_another_peers_links_counts_for_nothing() -> None:
    world = Swallowing(links=False)
    first, second = world.fleet.hosts()[:2]
    other = next(name for name in world.fleet.agents if name not in (first, second))
    for looks in range(20):
        went = Passage(end=world.fleet.agents[first].executor, looks=looks, went=(world._mark(second),))
        came = Passage(end=world.fleet.agents[second].executor, looks=looks)
        pong = Pong(sequence=1, sent_s=0.0, incarnation="i1", passages=(went, came))
        world.fleet.say(f"agent:{other}", pong)
        world.fleet.pass_time(0.1, 0.1)
    assert not world.fleet.cluster.members.stalled
