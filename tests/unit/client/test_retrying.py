"""When and where to try again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline.client.retrying import Dialer, Retry
from stageline.errors import ConfigError, ConnectionLostError


@given(st.integers(1, 200), st.floats(0, 0.999))
def test_pauses_grow_to_the_longest_and_differ_by_chance(failures, chance):
    retry = Retry(first_s=0.1, longest_s=2.0)
    whole = min(2.0, 0.1 * 2 ** (failures - 1))
    assert whole / 2 <= retry.pause_s(failures, chance) <= whole
    assert retry.pause_s(failures, 0.0) == whole


@pytest.mark.parametrize(
    "settings", [{"attempts": 0}, {"first_s": 0.0}, {"first_s": 3.0}, {"longest_s": 0.01}, {"reconnect_s": -1.0}]
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ConfigError):
        Retry(**settings)


def test_addresses_take_turns_and_a_round_ends_with_a_pause():
    dialer = Dialer(["a:1", "b:1"], Retry(first_s=1.0), lambda: 0.0)
    assert dialer.address == "a:1"
    assert not dialer.failed(10.0)
    assert (dialer.address, dialer.not_before) == ("b:1", 0.0)
    assert dialer.failed(10.0)
    assert (dialer.address, dialer.not_before) == ("a:1", 11.0)
    dialer.failed(11.0)
    assert dialer.failed(11.0)
    assert dialer.not_before == 13.0
    dialer.works()
    dialer.failed(20.0)
    assert dialer.failed(20.0, at_least_s=5.0)
    assert dialer.not_before == 25.0


def test_the_end_of_a_round_names_all_of_them():
    dialer = Dialer(["a:1", "b:1"], Retry(), lambda: 0.0)
    last = ConnectionLostError("cannot reach a gateway at b:1", retry_after_s=2.0)
    dialer.failed(0.0, why="did not greet")
    dialer.failed(0.0, why=last.message)
    error = dialer.of_all(last)
    assert (type(error), error.retry_after_s) == (ConnectionLostError, 2.0)
    assert str(error) == "no answer from any of 2 gateways: a:1: did not greet; cannot reach a gateway at b:1"
    dialer.works()
    dialer.failed(0.0, why="gone")
    assert dialer.of_all(last) is last


def test_no_address_at_all():
    with pytest.raises(ConfigError, match="at least one gateway"):
        Dialer([], Retry(), lambda: 0.0)
