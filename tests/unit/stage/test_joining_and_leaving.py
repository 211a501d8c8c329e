from __future__ import annotations

from itertools import pairwise

from stageline_stage.departure import Departure
from stageline_stage.membership import DUPLICATE_PATIENCE_S, Membership


def steps(membership: Membership, start: float, end: float) -> list[tuple[float, str]]:
    times = [round(start + i / 10, 1) for i in range(round((end - start) * 10) + 1)]
    return [(now, step) for now in times if (step := membership.tick(now)) != "wait"]


def test_hello_is_repeated_with_backoff_until_welcome() -> None:
    membership = Membership(0.0)
    times = [now for now, _ in steps(membership, 0.0, 10.0)]
    gaps = [round(b - a, 1) for a, b in pairwise(times)]
    assert times[0] == 0.0 and gaps[:4] == [0.5, 1.0, 2.0, 2.0]
    membership.welcomed(10.0)
    assert membership.joined(10.0) and membership.tick(10.0) == "wait"


def test_pings_keep_us_joined_and_silence_makes_us_reconnect() -> None:
    membership = Membership(0.0)
    membership.welcomed(0.0)
    for i in range(50):
        membership.pinged(i / 10)
        assert membership.tick(i / 10) == "wait"
    assert membership.joined(5.8)
    assert steps(membership, 5.0, 6.2)[0][1] == "reconnect"
    assert not membership.joined(6.2)


def test_rejoin_says_hello_at_once_on_the_same_connection() -> None:
    membership = Membership(0.0)
    membership.welcomed(0.0)
    membership.tick(0.1)
    membership.rejoin(0.2)
    assert membership.tick(0.2) == "hello"


def test_a_duplicate_name_is_given_up_only_if_it_stays() -> None:
    membership = Membership(0.0)
    assert not membership.refused(0.0, "duplicate_name")
    assert not membership.refused(1.0, "duplicate_name")
    assert membership.refused(DUPLICATE_PATIENCE_S + 0.1, "duplicate_name")


def test_other_refusals_are_waited_out() -> None:
    membership = Membership(0.0)
    assert not any(membership.refused(float(t), "protocol") for t in range(100))


def test_leaving_waits_for_farewell_then_lets_the_executor_finish() -> None:
    departure = Departure(15.0)
    assert departure.tick(0.0, joined=True, executor_runs=True) == "wait"
    departure.begin(1.0)
    assert departure.tick(1.0, joined=True, executor_runs=True) == "announce"
    assert departure.tick(5.0, joined=True, executor_runs=True) == "wait"
    departure.farewell()
    assert departure.tick(6.0, joined=True, executor_runs=True) == "stop"
    assert departure.tick(6.1, joined=True, executor_runs=True) == "wait"
    assert departure.tick(6.2, joined=True, executor_runs=False) == "exit"


def test_leaving_does_not_wait_longer_than_it_may() -> None:
    departure = Departure(15.0)
    departure.begin(0.0)
    departure.tick(0.0, joined=True, executor_runs=True)
    assert departure.tick(15.0, joined=True, executor_runs=True) == "stop"
    assert departure.tick(20.1, joined=True, executor_runs=True) == "kill"
    assert departure.tick(20.2, joined=True, executor_runs=True) == "wait"
    assert departure.tick(20.3, joined=True, executor_runs=False) == "exit"


def test_without_a_coordinator_nobody_is_waited_for() -> None:
    departure = Departure(15.0)
    departure.begin(0.0)
    assert departure.tick(0.0, joined=False, executor_runs=True) == "stop"
    assert Departure(15.0).tick(0.0, joined=False, executor_runs=False) == "wait"


def test_a_restarted_coordinator_is_told_again() -> None:
    departure = Departure(15.0)
    departure.begin(0.0)
    assert departure.tick(0.0, joined=True, executor_runs=True) == "announce"
    departure.welcomed()
    assert departure.tick(1.0, joined=True, executor_runs=True) == "announce"
