"""When requests are sent, in both loops."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline.bench.schedule import ClosedLoop, OpenLoop, Window, constant, poisson


def test_the_window_is_half_open_and_leaves_the_warm_up_out() -> None:
    window = Window(warmup_s=1.0, duration_s=2.0)
    assert window.end_s == 3.0
    assert [at in window for at in (0.0, 0.999, 1.0, 2.999, 3.0)] == [False, False, True, True, False]


def test_constant_arrivals_do_not_drift() -> None:
    times = list(islice(constant(3.0), 3001))
    assert times[:3] == [0.0, 1 / 3, 2 / 3]
    assert times[3000] == 1000.0


def test_poisson_arrivals_are_the_same_for_a_seed_and_have_the_rate() -> None:
    times = list(islice(poisson(50.0, seed=3), 20_000))
    assert times == list(islice(poisson(50.0, seed=3), 20_000))
    assert times[:10] != list(islice(poisson(50.0, seed=4), 10))
    gaps = [after - before for before, after in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.1), "exponential gaps"


def test_callers_ask_again_only_when_they_are_answered() -> None:
    loop = ClosedLoop(2, end_s=10.0)
    assert [loop.take(0.0), loop.take(0.5), loop.take(0.5)] == [0.0, 0.5, None]
    assert loop.next_at() is None
    loop.ended(4.0)
    assert loop.next_at() == 4.0
    assert loop.take(4.25) == 4.25, "a caller means the moment in which it asks"
    loop.ended(5.0, pause_s=1.0)
    assert loop.take(5.5) is None
    assert loop.take(6.0) == 6.0
    loop.ended(10.0)
    assert loop.next_at() is None
    assert loop.take(10.0) is None
    assert loop.over(10.0)
    assert list(loop.backlog()) == []


def test_arrivals_keep_their_times_however_late_they_are_sent() -> None:
    loop = OpenLoop(constant(1.0), limit=2, end_s=5.0)
    assert [loop.take(2.5), loop.take(2.5), loop.take(2.5)] == [0.0, 1.0, None]
    assert loop.next_at() is None, "as many as may be are under way"
    loop.ended(2.6)
    assert loop.next_at() == 2.0
    assert loop.take(2.7) == 2.0
    loop.ended(2.8)
    assert loop.take(2.8) is None
    assert not loop.over(100.0)
    assert list(loop.backlog()) == [3.0, 4.0], "half-open: nothing arrives at the end"
    assert loop.over(5.0)


@given(
    st.lists(st.floats(0, 20, allow_nan=False), max_size=40).map(sorted),
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 30, allow_nan=False), st.booleans()), max_size=80),
)
def test_each_arrival_is_sent_or_left_exactly_once(
    arrivals: list[float], limit: int, steps: list[tuple[float, bool]]
) -> None:
    loop = OpenLoop(iter(arrivals), limit, end_s=15.0)
    sent: list[float] = []
    under_way = 0
    for now, ends in sorted(steps):
        if ends and under_way:
            loop.ended(now)
            under_way -= 1
        while (intended := loop.take(now)) is not None:
            assert intended <= now
            sent.append(intended)
            under_way += 1
        assert under_way <= limit
    assert sent + list(loop.backlog()) == [at for at in arrivals if at < 15.0]
