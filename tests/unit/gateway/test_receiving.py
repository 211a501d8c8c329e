"""The budget of bytes being received: never exceeded, nobody forgotten; and which pace is too slow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stageline_gateway.receiving import SLOWEST_BYTES_PER_S, Budget, Pace


def test_what_fits_is_reserved_and_the_rest_waits_its_turn():
    budget = Budget(100)
    assert budget.reserve(1, 60)
    assert not budget.reserve(2, 50)
    assert not budget.reserve(3, 10)  # it would fit, but it came later
    assert budget.release(1) == [2, 3]
    assert (budget.used, budget.waiting) == (60, 0)


def test_one_always_fits():
    budget = Budget(100)
    assert budget.reserve(1, 1000)
    assert not budget.reserve(2, 1)
    assert budget.release(1) == [2]


def test_who_leaves_while_waiting_is_passed_over():
    budget = Budget(100)
    budget.reserve(1, 100)
    budget.reserve(2, 100)
    budget.reserve(3, 100)
    assert budget.release(2) == []
    assert budget.release(1) == [3]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.integers(1, 150)), max_size=60))
def test_the_budget_is_kept_and_everybody_gets_a_turn(steps):
    budget, holding, waiting = Budget(100), {}, []
    for come, who, size in steps:
        if come and who not in holding and who not in [w for w, _ in waiting]:
            if budget.reserve(who, size):
                assert not waiting
                holding[who] = size
            else:
                waiting.append((who, size))
        elif not come:
            holding.pop(who, None)
            waiting = [w for w in waiting if w[0] != who]
            for granted in budget.release(who):
                assert waiting[0][0] == granted
                holding[granted] = waiting.pop(0)[1]
        assert budget.used == sum(holding.values())
        assert budget.used <= 100 or len(holding) == 1
        assert bool(holding) or not waiting
    while holding:
        who = next(iter(holding))
        del holding[who]
        for granted in budget.release(who):
            holding[granted] = dict(waiting)[granted]
            waiting = [w for w in waiting if w[0] != granted]
    assert budget.used == budget.waiting == len(waiting) == 0


def test_a_pace():
    assert Pace(received=9).too_slow(1.0)
    assert not Pace(received=SLOWEST_BYTES_PER_S).too_slow(1.0)
    assert not Pace(received=9, frames=1).too_slow(1.0)
    assert not Pace(received=9, paused=True).too_slow(1.0)
