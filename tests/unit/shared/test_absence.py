"""A coordinator that does not answer is complained about once, then rarely."""

from __future__ import annotations

from stageline.absence import AGAIN_S, FIRST_S, Absence


def complaints(absence: Absence, start: float, seconds: float) -> list[float]:
    """When a service that says hello every second complains."""
    times = [start + i for i in range(int(seconds) + 1)]
    return [time for time in times if absence.greeted(time)]


def test_the_first_complaint_comes_soon_and_the_next_rarely() -> None:
    assert complaints(Absence(), 100.0, 2 * AGAIN_S) == [100.0 + FIRST_S, 100.0 + FIRST_S + AGAIN_S]


def test_whoever_was_heard_is_waited_for_anew() -> None:
    absence = Absence()
    assert complaints(absence, 0.0, FIRST_S) == [FIRST_S]
    absence.heard()
    assert complaints(absence, 10.0, FIRST_S) == [10.0 + FIRST_S]


def test_one_greeting_that_is_answered_is_no_absence() -> None:
    absence = Absence()
    assert not absence.greeted(0.0)
    absence.heard()
    assert not absence.greeted(50.0)
