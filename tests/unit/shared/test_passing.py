from __future__ import annotations

from stageline.messages import Mark
from stageline.passing import FORGET_S, FRESH_S, MOST, Passing


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
