from __future__ import annotations

from stageline_stage.executor.cancelled import MOST, Cancelled


def test_what_was_cancelled_is_found_once() -> None:
    cancelled = Cancelled()
    assert not cancelled and not cancelled.take("g", 1)
    cancelled.add("g", 1)
    cancelled.add("g", 1)
    assert not cancelled.take("h", 1) and not cancelled.take("g", 2)
    assert cancelled and cancelled.take("g", 1)
    assert not cancelled and not cancelled.take("g", 1)


def test_the_oldest_are_forgotten() -> None:
    cancelled = Cancelled()
    for batch in range(MOST + 10):
        cancelled.add("g", batch)
    assert not cancelled.take("g", 9)
    assert cancelled.take("g", 10) and cancelled.take("g", MOST + 9)
