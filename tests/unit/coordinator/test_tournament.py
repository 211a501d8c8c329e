"""Who meets whom: rounds, hosts that are never used twice at a time, rests beside live traffic, failures."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fleet import FakeAgent, probe_of

from stageline.messages import Hello
from stageline_coordinator.peers import Gateway, Node, Peer
from stageline_coordinator.tournament import (
    ANSWER_S,
    BUDGET_S,
    BUSY_SHARE,
    CONFIRM_S,
    DOUBT_SHARE,
    MAX_ATTEMPTS,
    REFRESH_S,
    SAME_HOST_S,
    Pair,
    Tournament,
    budget_s,
    rounds,
)


def node(name: str, host: str = "", incarnation: str = "i") -> Node:
    return Node(FakeAgent(name, incarnation=incarnation, host=host, links={}).hello())


def gateway(name: str) -> Gateway:
    return Gateway(Hello(role="gateway", name=name, incarnation="i", probe=probe_of(name)))


def play(tournament: Tournament, peers: list[Peer], now: float, seconds: float = 0.1) -> tuple[list[int], float]:
    """Let every match take `seconds`; returns how many ran at a time until nothing was due, and the time then."""
    sizes: list[int] = []
    while matches := tournament.next(peers, (), now):
        hosts = [host for pair in matches for host in {pair[0].identity, pair[1].identity}]
        assert len(hosts) == len(set(hosts))
        sizes.append(len(matches))
        now += seconds
        for a, b in matches:
            tournament.ended((a.identity, b.identity), True, now)
    return sizes, now


@pytest.mark.parametrize("count", [*range(1, 12), 20, 21])
def test_everybody_meets_everybody_once_and_nobody_plays_twice_a_round(count: int) -> None:
    found = list(rounds(count))
    assert len(found) == (0 if count == 1 else count if count % 2 else count - 1)
    for pairs in found:
        players = [player for pair in pairs for player in pair]
        assert len(players) == len(set(players))
    met = sorted(pair for pairs in found for pair in pairs)
    assert met == [(i, j) for i in range(count) for j in range(i + 1, count)]


def test_twenty_nodes_take_nineteen_rounds_of_ten() -> None:
    tournament = Tournament(())
    sizes, now = play(tournament, [node(f"n{i:02}") for i in range(20)], 0.0)
    assert sizes == [10] * 19 and tournament.complete and now < 2.0


def test_a_gateway_is_measured_by_nodes_and_gateways_not_among_themselves() -> None:
    peers: list[Peer] = [node("a"), node("b"), gateway("f"), gateway("g")]
    tournament, pairs = Tournament(()), set[Pair]()
    for now in range(10):
        for a, b in tournament.next(peers, (), float(now)):
            assert isinstance(a, Node)
            pairs.add((a.identity, b.identity))
            tournament.ended((a.identity, b.identity), True, float(now))
    assert len(pairs) == 5 and ("gateway:f", "gateway:g") not in pairs


def test_nodes_of_one_host_take_turns_and_less_time() -> None:
    peers: list[Peer] = [node(name, host="h") for name in "abc"] + [node("d"), node("e")]
    tournament = Tournament(())
    first = tournament.next(peers, (), 0.0)
    assert [sum(peer.name in "abc" for peer in match) > 0 for match in first].count(True) == 1
    assert budget_s(peers[0], peers[1]) == SAME_HOST_S < budget_s(peers[0], peers[3]) == BUDGET_S


def test_a_host_that_measures_blocks_is_left_alone_until_it_is_done() -> None:
    peers: list[Peer] = [node("a"), node("b")]
    tournament = Tournament(())
    assert tournament.next(peers, {"host-of-a"}, 0.0) == []
    assert tournament.next(peers, (), 0.2) == [(peers[0], peers[1])]


def test_beside_live_traffic_one_pair_at_a_time_is_measured_and_then_there_is_a_rest() -> None:
    peers = [node(f"n{i}") for i in range(6)]
    for peer in peers:
        peer.worked_at = 1e9
    tournament, now, spent = Tournament(()), 0.0, 0.0
    while not now or not tournament.complete:
        matches = tournament.next(peers, (), now)
        assert len(matches) <= 1
        now += 0.06
        for a, b in matches:
            spent += 0.06
            tournament.ended((a.identity, b.identity), True, now)
    assert 0.5 * BUSY_SHARE < spent / now <= BUSY_SHARE * 1.1


def test_links_in_doubt_come_first_and_have_a_share_of_their_own() -> None:
    peers = [node(f"n{i}") for i in range(4)]
    for peer in peers:
        peer.worked_at = 1e9
    tournament = Tournament(())
    pairs, spent, now = list[Pair](), 0.0, 0.0
    while now < 120.0:
        for pair in (("agent:n2", "agent:n3"), ("agent:n1", "agent:n0")):
            tournament.again(pair, now, doubted=True)
        matches = tournament.next(peers, (), now)
        assert len(matches) <= 1
        for a, b in matches:
            now, spent = now + 0.1, spent + 0.1
            pairs.append((a.identity, b.identity))
            tournament.ended(pairs[-1], True, now)
        now += 0.1
    assert set(pairs[1:]) == {("agent:n0", "agent:n1"), ("agent:n2", "agent:n3")}, "after the first, before any doubt"
    assert 0.8 * (BUSY_SHARE + DOUBT_SHARE) < spent / now <= 1.1 * (BUSY_SHARE + DOUBT_SHARE)


def test_links_that_nobody_doubts_do_not_take_of_the_share_of_doubt() -> None:
    peers = [node(f"n{i}") for i in range(4)]
    for peer in peers:
        peer.worked_at = 1e9
    tournament, spent, now = Tournament(()), 0.0, 0.0
    while now < 120.0:
        tournament.around(("agent:n0", "agent:n1"), now)
        for a, b in tournament.next(peers, (), now):
            now, spent = now + 0.1, spent + 0.1
            tournament.ended((a.identity, b.identity), True, now)
        now += 0.1
    assert 0.8 * BUSY_SHARE < spent / now <= 1.1 * BUSY_SHARE


def test_a_link_in_doubt_does_not_wait_for_the_rest_after_another() -> None:
    peers = [node(name) for name in "abc"]
    tournament = Tournament(())
    _, now = play(tournament, [*peers], 0.0)
    for peer in peers:
        peer.worked_at = 1e9
    tournament.again(("agent:a", "agent:b"), now)
    assert tournament.next(peers, (), now)
    now += 0.3
    tournament.ended(("agent:a", "agent:b"), True, now)
    tournament.again(("agent:b", "agent:c"), now)
    assert not tournament.next(peers, (), now)
    tournament.again(("agent:c", "agent:a"), now, doubted=True)
    assert tournament.next(peers, (), now) == [(peers[0], peers[2])]


def test_the_other_links_of_both_ends_are_measured_when_there_is_time() -> None:
    peers: list[Peer] = [node(name) for name in "abcde"]
    tournament = Tournament(())
    _, now = play(tournament, peers, 0.0)
    tournament.around(("agent:b", "agent:a"), now + 1.0)
    met = set[Pair]()
    while matches := tournament.next(peers, (), now + 1.0):
        for a, b in matches:
            met.add((a.identity[-1], b.identity[-1]))
            tournament.ended((a.identity, b.identity), True, now + 1.0)
    assert met == {(one, other) for one in "ab" for other in "cde"}


def test_measured_links_are_renewed_later_and_those_of_who_comes_anew_at_once() -> None:
    peers: list[Peer] = [node("a"), node("b"), node("c")]
    tournament = Tournament(())
    _, now = play(tournament, peers, 0.0)
    assert tournament.next(peers, (), now + 1) == []
    peers[1] = node("b", incarnation="again")
    _, now = play(tournament, peers, now + 1)
    assert tournament.next(peers, (), now + REFRESH_S - 1.5) == []
    assert len(tournament.next(peers, (), now + REFRESH_S)) == 1


def test_who_was_away_for_a_moment_is_not_measured_again() -> None:
    peers: list[Peer] = [node("a"), node("b"), node("c")]
    tournament = Tournament(())
    _, now = play(tournament, peers, 0.0)
    assert tournament.next(peers[:2], (), now + 1) == []
    assert tournament.next(peers, (), now + 2) == []
    tournament.forget("agent:c")
    assert tournament.next(peers[:2], (), now + 3) == []
    assert len(tournament.next(peers, (), now + 4)) == 1


def test_new_links_come_before_old_ones() -> None:
    peers: list[Peer] = [node("a"), node("b"), node("c")]
    tournament = Tournament({("agent:a", "agent:b"), ("agent:a", "agent:c")})
    assert tournament.next(peers, (), 0.0) == [(peers[1], peers[2])]


def test_an_odd_result_is_confirmed_soon() -> None:
    peers: list[Peer] = [node("a"), node("b")]
    tournament = Tournament(())
    tournament.next(peers, (), 0.0)
    tournament.ended(("agent:a", "agent:b"), True, 1.0, confirm=True)
    assert tournament.next(peers, (), 1.0 + CONFIRM_S / 2) == []
    assert tournament.next(peers, (), 1.0 + CONFIRM_S)


def test_failures_are_tried_again_ever_later_and_then_count() -> None:
    peers: list[Peer] = [node("a"), node("b")]
    tournament, now, tries = Tournament(()), 0.0, []
    while len(tries) < 9:
        if tournament.next(peers, (), now):
            broken = tournament.ended(("agent:a", "agent:b"), False, now)
            tries.append((now, broken))
            assert tournament.complete, "a link that cannot be measured keeps nobody waiting"
        now += 0.5
    assert [broken for _, broken in tries].index(True) == MAX_ATTEMPTS - 1
    waits = [later - sooner for (sooner, _), (later, _) in pairwise(tries)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_who_does_not_answer_or_goes_away_frees_the_other() -> None:
    peers: list[Peer] = [node("a"), node("b"), node("c")]
    tournament = Tournament(())
    ((a, b),) = tournament.next(peers, (), 0.0)
    pair = (a.identity, b.identity)
    assert tournament.overdue(ANSWER_S - 1) == [] and tournament.overdue(ANSWER_S) == [pair]
    tournament.lost(a.identity)
    assert tournament.overdue(ANSWER_S) == [] and not tournament.hosts
    left = [peer for peer in peers if peer is not a]
    assert tournament.next(left, (), 1.0)
    tournament.ended(pair, True, 1.0)  # a late answer to a match that counts no more
