"""Addresses as text."""

from __future__ import annotations

import pytest

from stageline.addresses import (
    advertise,
    host_of,
    own_address_towards,
    port_of,
    reachable,
    split_key,
    with_key,
)
from stageline.errors import ConfigError

KEY = bytes(range(32))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:7700", "tcp://[::1]:7700", "ipc://@stageline-x"])
def test_a_key_travels_with_the_address(address: str) -> None:
    assert split_key(with_key(address, KEY)) == (address, KEY)
    assert split_key(address) == (address, b"")
    assert with_key("", KEY) == "" and with_key(address, b"") == address


@pytest.mark.parametrize("digits", ["", "00", "zz" * 32, KEY.hex() + "00"])
def test_what_is_no_key_is_refused(digits: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        split_key(f"tcp://127.0.0.1:1?key={digits}")


def test_host_and_port_of_an_address_with_a_key() -> None:
    address = with_key("tcp://[fe80::1]:7700", KEY)
    assert (host_of(address), port_of(address)) == ("fe80::1", 7700)


@pytest.mark.parametrize(
    ("address", "through", "wanted"),
    [
        ("tcp://0.0.0.0:7701", "tcp://10.0.0.1:7700", "tcp://10.0.0.1:7701"),
        ("tcp://[::]:7701", "tcp://[fe80::1]:7700", "tcp://[fe80::1]:7701"),
        ("0.0.0.0:7710", "box.example:7700", "box.example:7710"),
        ("tcp://10.0.0.2:7701", "tcp://10.0.0.1:7700", "tcp://10.0.0.2:7701"),
        (with_key("tcp://0.0.0.0:1", KEY), "tcp://10.0.0.1:7700", with_key("tcp://10.0.0.1:1", KEY)),
    ],
)
def test_every_interface_is_reached_where_its_neighbour_was(address: str, through: str, wanted: str) -> None:
    assert reachable(address, through) == wanted


def test_another_host_may_be_advertised() -> None:
    assert advertise("tcp://127.0.0.1:5", "box.example") == "tcp://box.example:5"
    assert advertise("tcp://127.0.0.1:5", "") == "tcp://127.0.0.1:5"


def test_the_own_address_towards_a_host_is_the_one_that_it_sees() -> None:
    assert own_address_towards("tcp://127.0.0.1:7700") == "127.0.0.1"
    with pytest.raises(ConfigError, match="--advertise-host"):
        own_address_towards("tcp://no-such-host.invalid:7700")
