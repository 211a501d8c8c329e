from __future__ import annotations

import pytest

from stageline_stage.supervision import IllegalTransition, Kill, Patience, Spawn, Supervisor, describe_exit

PATIENCE = Patience(start_s=60.0, silent_s=1.0, stopped_s=0.3, backoff_s=(0.0, 0.5, 1.0), stable_s=30.0)


def running(now: float = 0.0) -> Supervisor:
    supervisor = Supervisor(PATIENCE, now)
    assert supervisor.tick(now) == [Spawn()]
    supervisor.spawned(now)
    supervisor.hello(now)
    return supervisor


def beat(supervisor: Supervisor, start: float, end: float, state: str = "S") -> list[object]:
    found: list[object] = []
    for step in range(round((end - start) * 10) + 1):
        now = start + step / 10
        supervisor.heard(now)
        found += supervisor.tick(now, state)
    return found


def quiet(supervisor: Supervisor, start: float, end: float, state: str = "S") -> list[tuple[float, object]]:
    times = [start + step / 10 for step in range(round((end - start) * 10) + 1)]
    return [(now, found) for now in times for found in supervisor.tick(now, state)]


def test_beats_keep_it_alive() -> None:
    assert beat(running(), 0.0, 20.0) == []


def test_silence_kills_it_after_a_second() -> None:
    (now, step), *rest = quiet(running(), 0.1, 2.0)
    assert isinstance(step, Kill) and "silent" in step.reason
    assert 1.0 < now < 1.3 and not rest


def test_a_stopped_process_is_killed_sooner_even_if_beats_are_still_queued() -> None:
    supervisor = running()
    beat(supervisor, 0.1, 1.0)
    found = beat(supervisor, 1.1, 2.0, "T")
    assert len(found) == 1 and "stopped" in str(found[0])


def test_a_process_that_goes_on_in_time_is_spared() -> None:
    supervisor = running()
    assert beat(supervisor, 0.1, 0.3, "T") == []
    assert beat(supervisor, 0.4, 3.0, "S") == []


def test_a_slow_import_has_its_own_limit() -> None:
    supervisor = Supervisor(PATIENCE, 0.0)
    supervisor.tick(0.0)
    supervisor.spawned(0.0)
    assert quiet(supervisor, 0.1, 59.0) == []
    (_, step), *_ = quiet(supervisor, 59.1, 61.0)
    assert isinstance(step, Kill) and "start_timeout_s" in step.reason


def test_our_own_pause_is_not_held_against_it() -> None:
    supervisor = running()
    beat(supervisor, 0.1, 1.0)
    assert supervisor.tick(9.0, "S") == []
    assert quiet(supervisor, 9.1, 9.4) == []
    assert quiet(supervisor, 9.5, 12.0)


def test_restarts_back_off_and_begin_anew_after_a_stable_time() -> None:
    supervisor, now, waits = Supervisor(PATIENCE, 0.0), 0.0, []
    for _ in range(4):
        died = now
        while not supervisor.tick(now):
            now += 0.1
        waits.append(round(now - died, 1))
        supervisor.spawned(now)
        supervisor.hello(now)
        supervisor.exited(now, -9)
    assert waits == [0.0, 0.0, 0.5, 1.0]
    while not supervisor.tick(now):
        now += 0.1
    supervisor.spawned(now)
    supervisor.hello(now)
    beat(supervisor, now, now + 40)
    supervisor.exited(now + 40, 1)
    assert supervisor.tick(now + 40.01) == [Spawn()]


def test_a_kill_is_the_reason_of_the_exit_that_follows() -> None:
    supervisor = running()
    quiet(supervisor, 0.1, 1.5)
    assert supervisor.state == "killed"
    assert "silent" in supervisor.exited(1.6, -9)
    assert supervisor.restarts == 1


def test_after_stop_it_does_not_come_back() -> None:
    supervisor = running()
    supervisor.stop()
    assert supervisor.exited(0.2, 0) == "exited with code 0"
    assert supervisor.state == "ended"
    assert supervisor.tick(100.0) == []


def test_illegal_steps_raise() -> None:
    with pytest.raises(IllegalTransition, match="waiting cannot be hello"):
        Supervisor(PATIENCE, 0.0).hello(0.0)


@pytest.mark.parametrize(("code", "text"), [(-11, "signal 11"), (3, "code 3")])
def test_exit_codes_are_told_apart(code: int, text: str) -> None:
    assert text in describe_exit(code)
