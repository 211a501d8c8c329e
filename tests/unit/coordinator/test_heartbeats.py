"""Pings at their pace, and whose traffic counts as whose life."""

from __future__ import annotations

from fleet import FakeAgent

from stageline.messages import ExecutorDown, Pong
from stageline_coordinator.detector import DetectorConfig, PeerState
from stageline_coordinator.heartbeats import Heartbeats
from stageline_coordinator.members import Members


def test_pings_go_to_whoever_is_watched_at_the_agreed_pace() -> None:
    beats = Heartbeats(DetectorConfig())
    beats.watch("agent:a", 0.0)
    times = [i * 0.05 for i in range(21)]
    sent = [(now, ping.sequence) for now in times for _, ping in beats.pings(now)]
    assert 9 <= len(sent) <= 11 and [s for _, s in sent] == list(range(1, len(sent) + 1))
    beats.unwatch("agent:a")
    assert beats.pings(5.0) == []


def test_silence_suspects_then_evicts_and_traffic_reinstates() -> None:
    beats = Heartbeats(DetectorConfig())
    beats.watch("agent:a", 0.0)
    changes = [change for i in range(5) for change in beats.tick(i * 0.1)]
    assert [c.state for c in changes] == [PeerState.SUSPECT]
    assert [c.state for c in beats.heard("agent:a", 0.41, sent_s=-1e12)] == [PeerState.ALIVE]
    (lost,) = beats.disconnected("agent:a", 0.42)
    assert lost.disconnected and lost.state is PeerState.SUSPECT
    changes = [change for i in range(5, 14) for change in beats.tick(i * 0.1)]
    assert [c.state for c in changes] == [PeerState.EVICTED]


def test_a_namesake_does_not_keep_its_dead_predecessor_alive() -> None:
    members = Members((), 0.0)
    first, second = FakeAgent("a", incarnation="i1"), FakeAgent("a", incarnation="i2")
    members.join("agent:a", first.hello(), 0.0)
    assert not members.vouches("agent:a", second.hello())
    assert not members.vouches("agent:a", Pong(sequence=1, sent_s=0, incarnation="i2"))
    assert members.vouches("agent:a", Pong(sequence=1, sent_s=0, incarnation="i1"))
    assert members.vouches("agent:a", ExecutorDown(executor="x", exit_code=1, reason="y"))
    assert not members.vouches("agent:b", Pong(sequence=1, sent_s=0, incarnation="i1"))
