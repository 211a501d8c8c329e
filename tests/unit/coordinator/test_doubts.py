"""Links that change under live traffic are doubted within seconds; load, receivers and clocks are not taken for that.

In virtual time: batches pass a first-in-first-out link, the receiver's `Passing` and its heartbeats.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from stageline.messages import Flow
from stageline.passing import Passing
from stageline_coordinator.doubts import (
    CALM_S,
    FEWEST,
    FORGET_S,
    LONGEST_S,
    PAUSE_S,
    RECENT_S,
    WINDOW_S,
    WINDOWS,
    Doubt,
    Doubts,
    Window,
    Windows,
)
from stageline_coordinator.network import Link

MBPS = 1e6 / 8
AB = ("agent:a", "agent:b")
KB100 = 100_000
BEAT_S = 0.1


@dataclass
class Cable:
    """A link from a to b that was measured to carry `planned` Mbit/s. `read`: when b reads what comes at some time."""

    planned: float
    mbps: Callable[[float], float]
    latency_s: float = 0.001
    clocks_s: float = 0.0
    skew: float = 0.0
    read: Callable[[float], float] = lambda at: at
    doubts: Doubts = field(default_factory=Doubts)
    found: list[tuple[float, Doubt]] = field(default_factory=list)
    free: float = 0.0
    beat: float = 0.0
    came: float = 0.0

    def __post_init__(self) -> None:
        self.passing, self.windows = Passing(), Windows()

    def send(self, at: float, nbytes: int) -> float:
        """When it comes."""
        begun = max(at, self.free)
        self.free = begun + nbytes / (self.mbps(begun) * MBPS)
        self.came = max(self.came, self.read(self.free + self.latency_s))
        while self.beat < self.came:
            self._tell(self.beat)
            self.beat += BEAT_S
        sent_us = int((at * (1 - self.skew) + self.clocks_s) * 1e6)
        self.passing.took("a", sent_us, self.came, nbytes)
        return self.came

    def _tell(self, now: float) -> None:
        link = Link(self.planned * MBPS, self.latency_s)
        for flow in self.passing.report("b", 0, now).flows:
            window = self.windows.heard("b", flow, now)
            doubt = self.doubts.add(AB, window, link, now) if window else None
            self.found += [(now, doubt)] if doubt is not None else []

    def closed(self, window: int, seconds: float, nbytes: int = KB100) -> None:
        """So many batches under way all the time: the link is never idle."""
        came = [self.came] * window
        while came[0] < seconds:
            came = [*came[1:], self.send(came[0], nbytes)]

    def paced(self, every_s: float, seconds: float, nbytes: int = KB100) -> None:
        at = self.came
        while at < seconds:
            self.send(at, nbytes)
            at += every_s


def falling(before: float, after: float, at: float) -> Callable[[float], float]:
    return lambda now: before if now < at else after


@pytest.mark.parametrize("window", [2, 6, 20])
@pytest.mark.parametrize("clocks_s", [0.0, -1e6, 1e6])
def test_a_busy_link_that_falls_to_a_quarter_is_noticed_within_seconds(window: int, clocks_s: float) -> None:
    cable = Cable(20, falling(20, 5, 30.0), clocks_s=clocks_s + 2e6, skew=5e-5)
    cable.closed(window, 36.0)
    ((when, doubt),) = cable.found
    assert 30.0 < when < 34.0 and doubt.slower
    assert doubt.bytes_per_s == pytest.approx(5 * MBPS, rel=0.05)
    assert cable.doubts.carried(AB, cable.beat) == pytest.approx(5 * MBPS, rel=0.05)


def test_a_link_with_time_to_spare_is_noticed_too() -> None:
    cable = Cable(20, falling(20, 5, 30.0))
    cable.paced(0.25, 40.0)  # 40 ms of each 250, then 160
    assert [doubt.slower for _, doubt in cable.found] == [True] and 30.0 < cable.found[0][0] < 34.0


def test_a_link_that_carries_more_than_it_was_measured_to_is_noticed() -> None:
    cable = Cable(5, falling(5, 20, 30.0))
    cable.closed(4, 40.0)
    ((when, doubt),) = cable.found
    assert 30.0 < when < 34.0 and not doubt.slower and doubt.bytes_per_s == pytest.approx(20 * MBPS, rel=0.05)


def test_a_link_that_is_as_it_was_measured_is_not_doubted_however_load_changes() -> None:
    cable = Cable(20, lambda now: 20.0, clocks_s=5e3, skew=-9e-5)
    cable.paced(0.5, 30.0)
    cable.closed(12, 60.0)
    cable.paced(0.041, 90.0)
    cable.closed(2, 120.0, 700_000)
    cable.paced(0.03, 150.0, 2_000)
    assert not cable.found


def test_a_receiver_that_looks_rarely_or_stands_still_now_and_then_is_not_taken_for_a_slow_link() -> None:
    def every_8_ms(at: float) -> float:
        return 0.008 * (1 + int(at / 0.008))

    compute_bound = Cable(1000, lambda now: 1000.0, read=every_8_ms)
    compute_bound.paced(0.001, 20.0, 12_000)
    assert not compute_bound.found

    def still(at: float) -> float:  # a quarter of a second, every five
        return at if at % 5.0 > 0.25 else at - at % 5.0 + 0.25

    busy = Cable(20, lambda now: 20.0, read=still)
    busy.paced(0.1, 40.0)
    busy.closed(4, 80.0)
    assert not busy.found


def test_small_batches_and_small_delays_on_a_link_with_time_to_spare_are_put_down_to_busy_machines() -> None:
    late = itertools.cycle((0.0, 0.05, 0.01, 0.03))
    full = Cable(20, lambda now: 20.0, read=lambda at: at + next(late))
    full.paced(0.25, 20.0, 4_000)
    assert not full.found
    full = Cable(1000, lambda now: 1000.0, read=lambda at: at + next(late) / 5)
    full.paced(0.05, 20.0)
    assert not full.found


def test_a_clock_that_jumps_casts_no_doubt() -> None:
    cable = Cable(20, lambda now: 20.0, clocks_s=5e3)
    cable.paced(0.1, 10.0)
    for jump in (-3600.0, 7200.0):
        cable.clocks_s += jump
        cable.paced(0.1, cable.came + 10.0)
    assert not cable.found


def window(seconds: float = 1.0, nbytes: int = 10 * KB100, busy_s: float = 1.0) -> Window:
    return Window(10, nbytes, busy_s, seconds)


SLOW = Link(10 * KB100 * 4.0, 0.001)


def test_one_good_window_is_enough_to_clear_a_link() -> None:
    doubts = Doubts()
    for number in range(12):
        good = number % WINDOWS == WINDOWS - 1
        assert doubts.add(AB, window(busy_s=0.25 if good else 1.0), SLOW, float(number)) is None
    found = [doubts.add(AB, window(), SLOW, 20.0 + number) for number in range(WINDOWS)]
    assert [bool(one) for one in found] == [False] * (WINDOWS - 1) + [True]


def test_it_is_doubted_again_ever_later_and_after_a_calm_time_as_if_new() -> None:
    doubts, times, now = Doubts(), list[float](), 0.0
    while now < 2000.0:
        if doubts.add(AB, window(), SLOW, now) is not None:
            times.append(now)
        now += 1.0
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert waits[:3] == [PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S] and max(waits) == LONGEST_S
    now = times[-1] + CALM_S
    again = [now + number for number in range(60) if doubts.add(AB, window(), SLOW, now + number) is not None]
    assert again[1] - again[0] == PAUSE_S


def test_differences_that_cost_nothing_and_links_that_were_not_measured_are_not_doubted() -> None:
    doubts = Doubts()
    fast = Link(1e9, 0.0001)
    for number in range(10):
        assert doubts.add(AB, Window(1000, 1_000_000, 0.5, 1.0), fast, float(number)) is None  # 0.5 ms each
        assert doubts.add(AB, window(), None, float(number)) is None
        assert doubts.add(AB, window(), Link(0.0, 0.0), float(number)) is None


def test_what_a_link_carried_is_said_while_it_is_news() -> None:
    doubts = Doubts()
    doubts.add(AB, window(seconds=2.0), SLOW, 5.0)
    assert doubts.carried(AB, 5.0) == 5 * KB100
    assert doubts.carried(AB, 5.0 + RECENT_S) == doubts.carried(AB[::-1], 5.0) == 0.0
    doubts.forget("agent:b")
    assert doubts.carried(AB, 5.0) == 0.0


def flow(batches: int, last_s: float, busy_s: float = 0.0, nbytes: int = 0) -> Flow:
    return Flow(peer="a", batches=batches, nbytes=nbytes, busy_s=busy_s, last_s=last_s)


def test_a_window_has_its_length_and_its_batches() -> None:
    windows = Windows()
    assert windows.heard("b", flow(5, 1.0), 1.0) is None
    assert windows.heard("b", flow(5 + 9, 1.0 + WINDOW_S / 2), 1.5) is None
    assert windows.heard("b", flow(5 + 12, 1.0 + WINDOW_S, 0.25, 700), 2.0) == Window(12, 700, 0.25, WINDOW_S)
    assert windows.heard("b", flow(5 + 12 + FEWEST - 1, 90.0), 90.0) is None
    assert windows.heard("c", flow(90, 99.0), 99.0) is None, "another receiver"


@pytest.mark.parametrize("odd", [flow(1, 9.0), flow(20, float("nan")), flow(20, 9.0, -1.0), flow(20, 0.0)])
def test_a_receiver_that_counts_backwards_starts_anew(odd: Flow) -> None:
    windows = Windows()
    windows.heard("b", flow(5, 1.0, 0.5), 1.0)
    assert windows.heard("b", odd, 2.0) is None
    windows.heard("b", flow(30, 10.0, 1.0), 3.0)
    assert windows.heard("b", flow(40, 12.0, 1.5, 70), 4.0) == Window(10, 70, 0.5, 2.0)
    windows.forget(4.0 + FORGET_S)
    assert windows.heard("b", flow(60, 20.0, 2.0), 4.0 + FORGET_S) is None, "as if new"


def test_a_measurement_agrees_when_it_differs_in_the_same_direction() -> None:
    slower, faster = Doubt(True, 1.0), Doubt(False, 1.0)
    known, found = Link(20 * MBPS, 0.001), Link(5 * MBPS, 0.001)
    assert slower.agrees(known, found, 1 << 20) and not faster.agrees(known, found, 1 << 20)
    assert faster.agrees(found, known, 1 << 20) and not slower.agrees(None, found, 1 << 20)
