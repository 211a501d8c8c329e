"""Percentiles are exact, every request counts once, and a stall shows in an open loop."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline.bench.recorder import Distribution, Figures, Recorder, distribution, percentile
from stageline.bench.schedule import ClosedLoop, OpenLoop, Pacer, Window, constant


def test_percentiles_are_of_nearest_rank() -> None:
    found = distribution([float(i) for i in range(100, 0, -1)])
    assert found == Distribution(count=100, mean=50.5, p50=50.0, p90=90.0, p99=99.0, max=100.0)
    assert distribution([3.0, 1.0]) == Distribution(2, 2.0, 1.0, 3.0, 3.0, 3.0)
    assert distribution([]) == Distribution()
    assert percentile([float(i) for i in range(1, 101)], 7) == 7.0
    assert percentile([5.0], 0) == 5.0


@given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=300), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    needed = ceil(percent * len(values) / 100)
    assert found in values
    assert sum(value <= found for value in values) >= needed
    assert sum(value < found for value in values) < needed


def test_every_request_that_was_due_in_the_window_counts_once() -> None:
    recorder = Recorder(Window(warmup_s=1.0, duration_s=2.0))
    for intended in (0.5, 1.0, 1.5, 2.0, 2.5):
        recorder.sent(intended, intended + 0.25)
    recorder.answered(0.5, 1.5)  # warm-up: only its answer falls into the window
    recorder.answered(1.0, 1.5, attempts=3, shared=4)
    recorder.answered(2.0, 3.5, shared=2)  # answered after the end, but it was due before
    recorder.failed(1.5, "rejected", "full")
    recorder.failed(0.9, "deadline", "that was the warm-up")
    recorder.abandoned(2.5, 12.5)
    recorder.abandoned(2.75, 12.5)  # never sent
    figures = recorder.figures()
    assert (figures.requests, figures.answered, figures.failed, figures.unanswered) == (5, 2, 1, 2)
    assert (figures.errors, figures.messages) == ({"rejected": 1}, {"rejected": "full"})
    assert figures.retries == 2
    assert figures.throughput_rps == 1.0, "two answers came in two seconds, one of them to the warm-up"
    assert figures.latency == distribution([0.5, 1.5, 10.0, 9.75]), "the unanswered with their age, a lower bound"
    assert figures.lag == distribution([0.25] * 4)
    assert figures.shared == 3.0
    assert (recorder.answers, recorder.failures) == (3, 2), "people who watch see all of it"


def test_without_answers_everything_is_zero() -> None:
    figures = Recorder(Window(0.0, 1.0)).figures()
    assert (figures.requests, figures.throughput_rps, figures.shared) == (0, 0.0, 0.0)
    assert figures.latency == Distribution()


# --- coordinated omission ---------------------------------------------------------------------------------------

SERVICE_S = 0.01
STALL = (50.0, 52.0)
DURATION_S = 100.0


def server() -> Callable[[float], float]:
    """One request after the other, 10 ms each; in the middle it does nothing for two seconds."""
    free_at = 0.0

    def done_at(now: float) -> float:
        nonlocal free_at
        start = max(now, free_at)
        free_at = (STALL[1] if STALL[0] <= start < STALL[1] else start) + SERVICE_S
        return free_at

    return done_at


def simulate(pacer: Pacer, *, from_intended: bool = True) -> Figures:
    """The run of a pacer against `server`, without any waiting."""
    recorder = Recorder(Window(0.0, DURATION_S))
    done_at = server()
    under_way: list[tuple[float, float]] = []
    now = 0.0
    while True:
        while (intended := pacer.take(now)) is not None:
            recorder.sent(intended, now)
            heapq.heappush(under_way, (done_at(now), intended if from_intended else now))
        at = pacer.next_at()
        times = [time for time in (at, under_way[0][0] if under_way else None) if time is not None]
        if not times:
            return recorder.figures()
        now = max(now, min(times))
        while under_way and under_way[0][0] <= now:
            done, begun = heapq.heappop(under_way)
            recorder.answered(begun, done)
            pacer.ended(done)


def test_a_stall_shows_in_the_percentiles_of_an_open_loop() -> None:
    figures = simulate(OpenLoop(constant(50.0), limit=256, end_s=DURATION_S))
    assert figures.requests == figures.answered == 5000
    # 100 requests come during the stall, the next 100 queue behind them: 4 % wait, the longest for the whole stall.
    assert figures.latency.p50 == pytest.approx(SERVICE_S)
    assert figures.latency.p90 == pytest.approx(SERVICE_S)
    assert figures.latency.p99 == pytest.approx(1.5, rel=0.05)
    assert figures.latency.max == pytest.approx(STALL[1] - STALL[0] + SERVICE_S)


def test_the_limit_on_requests_under_way_does_not_hide_the_stall() -> None:
    wide = simulate(OpenLoop(constant(50.0), limit=256, end_s=DURATION_S))
    narrow = simulate(OpenLoop(constant(50.0), limit=1, end_s=DURATION_S))
    for name in ("p50", "p90", "p99", "max"):
        assert getattr(narrow.latency, name) == pytest.approx(getattr(wide.latency, name))
    assert narrow.lag.p99 > 1.0, "it says that the requests were sent late"


def test_counting_from_the_sending_omits_the_stall() -> None:
    """What goes wrong otherwise: the same run, but each latency counts from when the request could be sent."""
    figures = simulate(OpenLoop(constant(50.0), limit=1, end_s=DURATION_S), from_intended=False)
    assert figures.latency.p99 == pytest.approx(SERVICE_S)


def test_a_closed_loop_hardly_notices_the_stall() -> None:
    figures = simulate(ClosedLoop(1, end_s=DURATION_S))
    assert figures.latency.p99 == pytest.approx(SERVICE_S)
    assert figures.latency.max == pytest.approx(STALL[1] - STALL[0] + SERVICE_S, abs=SERVICE_S)
    assert figures.throughput_rps == pytest.approx(98.0, rel=0.01)
