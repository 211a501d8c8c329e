"""Two processes under one name: each is a peer of its own, and only one of them is let in."""

from __future__ import annotations

import pytest
from fleet import FakeAgent, Fleet

from stageline.messages import Hello, Leaving, Pong, Refused, Rejoin, Role, Welcome, control_identity
from stageline_coordinator import events
from stageline_coordinator.detector import PeerState


def hello(role: Role, incarnation: str) -> Hello:
    if role == "agent":
        return FakeAgent("x", incarnation=incarnation).hello()
    return Hello(role=role, name="x", incarnation=incarnation)


def identity(role: Role, incarnation: str) -> str:
    return control_identity(role, "x", incarnation)


def two(role: Role) -> tuple[Fleet, str, str]:
    fleet = Fleet()
    first, second = identity(role, "i1"), identity(role, "i2")
    fleet.say(first, hello(role, "i1"))
    fleet.say(second, hello(role, "i2"))
    return fleet, first, second


@pytest.mark.parametrize("role", ["agent", "gateway"])
def test_the_second_is_refused_without_touching_the_first(role: Role) -> None:
    fleet, first, second = two(role)
    assert [reply.code for reply in fleet.replies(second, Refused)] == ["duplicate_name"]
    assert fleet.replies(first, Welcome) and not fleet.replies(second, Welcome)
    assert fleet.watched == {first}
    fleet.say(second, Pong(sequence=1, sent_s=0.0, incarnation="i2"))
    fleet.say(second, Leaving(name="x"))
    fleet.handle(events.PeerChanged(second, PeerState.EVICTED))
    peer = fleet.cluster.members.find(first)
    assert peer is not None and (peer.liveness, peer.leaving) == ("alive", False)
    assert fleet.replies(second, Rejoin) and not fleet.replies(first, Rejoin)


@pytest.mark.parametrize("role", ["agent", "gateway"])
def test_the_second_takes_over_from_a_suspect_whose_own_words_count_no_more(role: Role) -> None:
    fleet, first, second = two(role)
    fleet.handle(events.PeerChanged(first, PeerState.SUSPECT))
    fleet.say(second, hello(role, "i2"))
    assert fleet.watched == {second}
    peer = fleet.cluster.members.find(second)
    assert peer is not None and (peer.liveness, peer.hello.incarnation) == ("alive", "i2")
    assert fleet.cluster.members.find(first) is None
    fleet.say(first, Pong(sequence=1, sent_s=0.0, incarnation="i1"))
    assert fleet.replies(first, Rejoin)


def test_a_peer_that_names_no_incarnation_in_its_identity_is_still_admitted() -> None:
    fleet = Fleet()
    fleet.say("gateway:x", hello("gateway", "i1"))
    assert fleet.replies("gateway:x", Welcome)
    fleet.say(identity("gateway", "i2"), hello("gateway", "i2"))
    assert [reply.code for reply in fleet.replies(identity("gateway", "i2"), Refused)] == ["duplicate_name"]


@pytest.mark.parametrize("claimed", ["agent:x/i2", "agent:y/i1", "gateway:x/i1", "agent:x/", "agent:x/i1/i1"])
def test_an_identity_that_is_not_that_of_the_hello_is_refused(claimed: str) -> None:
    fleet = Fleet()
    fleet.say(claimed, hello("agent", "i1"))
    assert [reply.code for reply in fleet.replies(claimed, Refused)] == ["protocol"]


def test_a_name_may_contain_what_separates_it_from_the_incarnation() -> None:
    fleet = Fleet()
    address = control_identity("gateway", "a/b", "i1")
    fleet.say(address, Hello(role="gateway", name="a/b", incarnation="i1"))
    fleet.say("gateway:a/b", Pong(sequence=1, sent_s=0.0, incarnation="i1"))
    assert fleet.replies(address, Welcome) and fleet.replies("gateway:a/b", Rejoin)
    found = fleet.cluster.members.find(address)
    assert found is not None and found.name == "a/b"
