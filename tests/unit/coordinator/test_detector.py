"""The failure detector: its rules one by one, then its two promises under random stalls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageline.errors import ConfigError, LocalProtocolError
from stageline_coordinator.detector import (
    LEGAL,
    DetectorConfig,
    FailureDetector,
    PeerState,
    Transition,
    check,
)

ALIVE, SUSPECT, EVICTED = PeerState.ALIVE, PeerState.SUSPECT, PeerState.EVICTED


def run(
    detector: FailureDetector, start: float, end: float, alive: tuple[str, ...] = (), step: float = 0.1
) -> list[tuple[float, Transition]]:
    """Ticks in (start, end], hearing `alive` before each; returns when who changed."""
    found: list[tuple[float, Transition]] = []
    for i in range(1, round((end - start) / step) + 1):
        now = start + i * step
        for peer in alive:
            detector.heard(peer, now)
        found += [(now, change) for change in detector.tick(now)]
    return found


def cluster(*peers: str, config: DetectorConfig | None = None) -> FailureDetector:
    detector = FailureDetector(config)
    for peer in peers:
        detector.add(peer, 0.0)
    detector.tick(0.0)
    return detector


def when(changes: list[tuple[float, Transition]], peer: str, new: PeerState) -> float:
    return next(at for at, change in changes if change.peer == peer and change.new is new)


def test_a_silent_peer_is_suspected_then_evicted() -> None:
    detector = cluster("a", "b", "c", "d")
    changes = run(detector, 0.0, 2.0, alive=("b", "c", "d"))
    assert [(c.peer, c.old, c.new) for _, c in changes] == [("a", ALIVE, SUSPECT), ("a", SUSPECT, EVICTED)]
    assert when(changes, "a", SUSPECT) == pytest.approx(0.3, abs=0.101)
    assert when(changes, "a", EVICTED) == pytest.approx(0.8, abs=0.101)
    assert changes[0][1].silence_s == pytest.approx(0.3, abs=0.101)


def test_any_traffic_revives_a_suspect() -> None:
    detector = cluster("a")
    run(detector, 0.0, 0.5)
    assert detector.state("a") is SUSPECT
    change = detector.heard("a", 0.55)
    assert change is not None
    assert (change.peer, change.old, change.new) == ("a", SUSPECT, ALIVE)
    assert detector.heard("a", 0.56) is None
    assert run(detector, 0.5, 0.8) == []


def test_a_disconnect_suspects_at_once() -> None:
    detector = cluster("a", "b")
    detector.heard("a", 0.05)
    change = detector.disconnected("a", 0.06)
    assert change is not None and change.new is SUSPECT
    assert detector.disconnected("a", 0.07) is None
    assert detector.tick(0.1) == []
    changes = run(detector, 0.1, 1.2, alive=("b",))
    assert [c.new for _, c in changes] == [EVICTED]
    assert when(changes, "a", EVICTED) == pytest.approx(0.85, abs=0.101)


def test_the_evicted_and_the_unknown_are_ignored_until_added() -> None:
    detector = cluster("a")
    run(detector, 0.0, 1.5)
    assert detector.states() == {"a": EVICTED}
    assert detector.heard("a", 1.6) is None
    assert detector.pong("a", 1.6, 0.01) is None
    assert detector.disconnected("a", 1.6) is None
    assert detector.heard("x", 1.6) is None
    assert detector.state("x") is None
    detector.add("a", 1.7)
    assert detector.state("a") is ALIVE
    detector.remove("a")
    detector.remove("a")
    assert detector.states() == {}


def test_own_lateness_is_forgiven() -> None:
    detector = cluster("a", "b")
    run(detector, 0.0, 0.2, alive=("a", "b"))
    assert detector.tick(10.0) == []  # the observer slept; the peers' traffic waits in its sockets
    assert detector.tick(10.05) == []
    changes = run(detector, 10.0, 11.5)
    assert {c.peer for _, c in changes if c.new is EVICTED} == {"a", "b"}


def test_a_stall_before_the_last_traffic_is_no_credit() -> None:
    detector = cluster("a", "b", "c")
    for peer in "abc":
        detector.heard(peer, 9.99)
    detector.tick(10.0)
    changes = run(detector, 10.0, 11.5, alive=("b", "c"))
    assert when(changes, "a", SUSPECT) == pytest.approx(10.3, abs=0.101)
    assert when(changes, "a", EVICTED) == pytest.approx(10.8, abs=0.101)


def test_a_missing_majority_is_held_once() -> None:
    detector = cluster("a", "b", "c", "d", "e")
    changes = run(detector, 0.0, 2.0, alive=("d", "e"), step=0.05)
    assert {c.peer for _, c in changes} == {"a", "b", "c"}
    for peer in "abc":
        assert when(changes, peer, SUSPECT) == pytest.approx(0.4, abs=0.051)
        assert when(changes, peer, EVICTED) == pytest.approx(0.8, abs=0.051)


def test_a_majority_that_comes_back_within_the_hold_was_never_suspected() -> None:
    detector = cluster("a", "b", "c")
    assert run(detector, 0.0, 0.35, step=0.05) == []
    assert detector.holding(0.35)
    assert run(detector, 0.35, 2.0, alive=("a", "b", "c")) == []
    assert not detector.holding(2.0)


def test_two_peers_are_too_few_to_suspect_oneself() -> None:
    changes = run(cluster("a", "b"), 0.0, 0.35, step=0.05)
    assert {c.peer for _, c in changes} == {"a", "b"}


def test_peers_that_die_one_after_the_other_are_not_held() -> None:
    detector = cluster("a", "b", "c")
    run(detector, 0.0, 0.4, alive=("b", "c"))
    assert detector.state("a") is SUSPECT
    changes = run(detector, 0.4, 0.8, alive=("c",))
    assert when(changes, "b", SUSPECT) == pytest.approx(0.7, abs=0.101)


def test_timeouts_follow_the_round_trip() -> None:
    detector = cluster("a", "b")
    for i in range(1, 30):
        detector.pong("a", i * 0.1, 0.27)
        detector.pong("b", i * 0.1, 0.001)
        detector.tick(i * 0.1)
    changes = run(detector, 2.9, 5.0, step=0.05)
    assert when(changes, "b", SUSPECT) == pytest.approx(3.2, abs=0.051)
    assert when(changes, "a", SUSPECT) == pytest.approx(3.2 + 0.27, abs=0.051)
    assert when(changes, "a", EVICTED) == pytest.approx(3.7 + 0.27, abs=0.051)


def test_the_allowance_is_capped() -> None:
    detector = cluster("a", config=DetectorConfig(rtt_cap_s=0.5))
    detector.pong("a", 0.0, 60.0)
    assert when(run(detector, 0.0, 2.0), "a", EVICTED) == pytest.approx(1.3, abs=0.101)


def test_only_legal_steps() -> None:
    for old in PeerState:
        for new in PeerState:
            if (old, new) in LEGAL:
                check(old, new)
            else:
                with pytest.raises(LocalProtocolError, match=f"from {old.value} to {new.value}"):
                    check(old, new)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ping_s": 0.0},
        {"suspect_s": 0.05},
        {"evict_s": 0.3},
        {"tick_s": 0.0},
        {"hold_s": -1.0},
        {"rtt_cap_s": -1.0},
        {"evict_s": float("nan")},
    ],
)
def test_a_config_that_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="detector"):
        DetectorConfig(**wrong)


GAPS = st.lists(st.one_of(st.floats(0.001, 0.1), st.floats(0.1, 5.0)), min_size=5, max_size=60)


@settings(max_examples=200, deadline=None)
@given(gaps=GAPS, late=st.booleans(), peers=st.integers(1, 5))
def test_a_peer_heard_at_every_interval_survives_any_stall(gaps: list[float], late: bool, peers: int) -> None:
    names = [f"p{i}" for i in range(peers)]
    detector = cluster(*names)
    now, heard_at = 0.0, 0.0
    for gap in gaps:
        now += gap
        speaks = now - heard_at >= 0.1  # what was sent meanwhile is read when the observer runs again
        for moment in ("before", "tick", "after"):
            if moment == "tick":
                assert detector.tick(now) == []
            elif speaks and late == (moment == "after"):
                heard_at = now
                for name in names:
                    detector.heard(name, now)
    assert set(detector.states().values()) == {ALIVE}


@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.floats(0.03, 0.1), min_size=100, max_size=100),
    others=st.lists(st.lists(st.booleans(), min_size=100, max_size=100), max_size=4),
    rtt=st.floats(0.0, 3.0),
)
def test_a_silent_peer_is_evicted_in_time(gaps: list[float], others: list[list[bool]], rtt: float) -> None:
    """Whatever the other peers do: also when they flap, so that the observer suspects itself again and again."""
    config = DetectorConfig()
    detector = cluster("dead", *[f"p{i}" for i in range(len(others))])
    detector.pong("dead", 0.0, rtt)
    bound = config.evict_s + min(config.rtt_cap_s, 3 * rtt) + 2 * config.hold_s + 5 * config.tick_s
    now = 0.0
    for step, gap in enumerate(gaps):
        now += gap
        for i, talks in enumerate(others):
            if talks[step]:
                detector.heard(f"p{i}", now)
        detector.tick(now)
        if now > bound:
            break
    assert now <= bound or detector.state("dead") is EVICTED


@settings(max_examples=100, deadline=None)
@given(gaps=st.lists(st.floats(0.01, 3.0), min_size=40, max_size=80))
def test_a_silent_peer_is_evicted_within_a_number_of_late_ticks(gaps: list[float]) -> None:
    detector = cluster("dead", "live")
    counted = now = 0.0
    for gap in gaps:
        now += gap
        counted += min(gap, 0.1)  # what the observer's lateness leaves of the gap
        detector.heard("live", now)
        detector.tick(now)
        if counted > 0.8 + 0.2:
            assert detector.state("dead") is EVICTED
    assert detector.state("live") is ALIVE
