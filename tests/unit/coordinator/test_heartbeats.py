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


def frozen() -> tuple[Heartbeats, float]:
    """Two peers, and an observer that has just come back from two seconds of standing still."""
    beats = Heartbeats(DetectorConfig())
    for peer in ("agent:a", "agent:b"):
        beats.watch(peer, 0.0)
    beats.tick(0.0)
    return beats, 2.0


def test_after_a_stall_a_broken_connection_suspects_nobody_who_comes_back() -> None:
    beats, now = frozen()
    assert beats.disconnected("agent:a", now) == []
    assert beats.tick(now) == []
    assert beats.disconnected("agent:b", now + 0.01) == []
    (back,) = beats.heard("agent:a", now + 0.05)
    assert back.returned and back.state is PeerState.ALIVE
    assert beats.heard("agent:a", now + 0.06) == []
    beats.watch("agent:b", now + 0.05)  # it said hello anew
    assert beats.heard("agent:b", now + 0.06) == []
    assert beats.tick(now + 0.1) == []


def test_after_a_stall_one_who_does_not_come_back_is_suspected_by_its_silence() -> None:
    beats, now = frozen()
    assert beats.disconnected("agent:a", now) == []
    changes = []
    for step in range(12):
        changes += [(round(step * 0.1, 1), change) for change in beats.tick(now + step * 0.1)]
        beats.heard("agent:b", now + step * 0.1)
    assert [(at, change.peer, change.state) for at, change in changes] == [
        (0.2, "agent:a", PeerState.SUSPECT),
        (0.7, "agent:a", PeerState.EVICTED),
    ]


def test_the_grace_ends_and_a_broken_connection_suspects_at_once_again() -> None:
    beats, now = frozen()
    for step in range(5):
        for peer in ("agent:a", "agent:b"):
            beats.heard(peer, now + step * 0.1)
        beats.tick(now + step * 0.1)
    (lost,) = beats.disconnected("agent:a", now + 0.41)
    assert lost.disconnected and lost.state is PeerState.SUSPECT
