from __future__ import annotations

import pytest

from stageline.messages import Flow, Mark
from stageline.passing import FORGET_S, FRESH_S, JUMP_S, MOST, SKEW, Passing


def test_the_newest_batch_of_each_gateway_and_peer_is_told_with_the_largest_that_went() -> None:
    passing = Passing()
    for batch in (3, 5, 4):
        passing.came("g", "a", batch)
        passing.went("g", "b", batch, 100 * batch)
    passing.came("h", "a", 1)
    told = passing.report("me", 7, 0.0)
    assert (told.end, told.looks) == ("me", 7)
    assert set(told.came) == {Mark(gateway="g", peer="a", batch=5), Mark(gateway="h", peer="a", batch=1)}
    assert told.went == (Mark(gateway="g", peer="b", batch=5, nbytes=500),)


def test_what_is_old_is_not_told_and_then_forgotten() -> None:
    passing = Passing()
    passing.went("g", "b", 5, 1)
    assert passing.report("me", 1, 0.0).went
    assert not passing.report("me", 2, FRESH_S).went
    passing.went("g", "b", 6, 1)
    assert passing.report("me", 3, FRESH_S + 1).went
    passing.report("me", 4, FRESH_S + 1 + FORGET_S)
    passing.went("g", "b", 2, 1)
    (mark,) = passing.report("me", 5, FRESH_S + 2 + FORGET_S).went
    assert mark.batch == 2, "nothing is remembered of before"


def test_no_more_links_are_followed_than_there_is_room_for() -> None:
    passing = Passing()
    for number in range(MOST + 5):
        passing.came("g", f"x{number}", 1)
    passing.came("g", "x0", 2)
    told = passing.report("me", 1, 0.0).came
    assert len(told) == MOST and Mark(gateway="g", peer="x0", batch=2) in told


def test_a_link_over_which_batch_0_went_goes_silent_too() -> None:
    passing = Passing()
    passing.came("g", "a", 0)
    assert passing.report("me", 1, 0.0).came
    assert not passing.report("me", 2, FRESH_S).came


def told(passing: Passing, now: float) -> Flow:
    (flow,) = passing.report("me", 1, now).flows
    return flow


def test_a_link_with_time_to_spare_was_busy_with_what_came_late() -> None:
    passing = Passing()
    passing.took("a", 5_000_000, 1.0, 100)  # clocks are 4 s apart
    passing.took("a", 5_500_000, 1.5, 100)
    passing.took("a", 6_000_000, 2.2, 300)
    flow = told(passing, 2.5)
    assert (flow.peer, flow.batches, flow.nbytes, flow.last_s) == ("a", 2, 400, 2.2)
    assert flow.busy_s == pytest.approx(0.2, abs=2 * SKEW)


def test_a_link_that_is_never_idle_was_busy_from_batch_to_batch() -> None:
    passing = Passing()
    for number in range(11):
        passing.took("a", 0, 1.0 + 0.3 * number, 100)
    assert told(passing, 4.0).busy_s == pytest.approx(3.0, abs=10 * SKEW)


def test_a_faster_batch_and_a_clock_that_jumped_are_what_later_ones_are_measured_from() -> None:
    passing = Passing()
    passing.took("a", 0, 1.0, 100)
    passing.took("a", 1_500_000, 2.0, 100)
    passing.took("a", 2_500_000, 3.1, 100)
    assert told(passing, 4.0).busy_s == pytest.approx(0.1, abs=2 * SKEW)
    passing.took("a", 4_000_000 - round(2e6 * JUMP_S), 4.0, 100)
    passing.took("a", 5_000_000 - round(2e6 * JUMP_S), 5.2, 100)
    assert told(passing, 6.0).busy_s == pytest.approx(0.3, abs=4 * SKEW)


def test_a_silent_link_is_not_spoken_of_and_then_forgotten() -> None:
    passing = Passing()
    for number in range(MOST + 1):
        passing.took(f"x{number}", 1, 1.0, 100)
    assert len(passing.report("me", 1, 2.0).flows) == MOST
    assert not passing.report("me", 1, 1.0 + FRESH_S).flows
    passing.took("x0", 1, 1.0 + FRESH_S, 100)
    assert [flow.batches for flow in passing.report("me", 1, 1.0 + FRESH_S).flows] == [1]
    passing.report("me", 1, 1.0 + FORGET_S)
    passing.took("new", 1, 1.0 + FORGET_S, 100)
    assert [flow.peer for flow in passing.report("me", 1, 1.0 + FORGET_S).flows] == ["new"]
