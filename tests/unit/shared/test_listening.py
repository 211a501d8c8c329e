"""Binding: patience with a port that is taken for a moment, and reasons that are true."""

from __future__ import annotations

import errno
import socket as system
from collections.abc import Callable, Iterator

import pytest
import zmq

from stageline import listening
from stageline.errors import ConfigError, StagelineError
from stageline.listening import listen
from stageline.sockets import Sockets


class Clock:
    """Stands in for `time`: who sleeps is told, and time passes."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, 0
        self.at_sleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1
        self.at_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(listening, "time", made)
    return made


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


@pytest.fixture
def taken() -> Iterator[system.socket]:
    """A connection of another program, whose own end was given the port."""
    with system.create_server(("127.0.0.1", 0)) as server, system.create_connection(server.getsockname()) as made:
        server.accept()[0].close()
        yield made


def test_a_port_that_becomes_free_is_taken_then(clock: Clock, sockets: Sockets) -> None:
    owner = system.create_server(("127.0.0.1", 0))
    port = owner.getsockname()[1]
    clock.at_sleep = lambda: owner.close() if clock.slept == 3 else None
    bound, endpoint = sockets.bind_data("127.0.0.1", port=port, patience_s=5.0)
    assert clock.slept == 3 and endpoint.tcp == f"tcp://127.0.0.1:{port}" and not bound.closed


def test_the_end_of_a_connection_takes_a_port_too(clock: Clock, sockets: Sockets, taken: system.socket) -> None:
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"127.0.0.1:{port} \(Address already in use\): choose another port"):
        sockets.bind_data("127.0.0.1", port=port, patience_s=5.0)
    assert 5.0 <= clock.now < 5.0 + 2 * listening.TRY_AGAIN_S


def test_nobody_waits_without_patience(clock: Clock, sockets: Sockets, taken: system.socket) -> None:
    with pytest.raises(ConfigError, match="choose another port"):
        sockets.bind_data("127.0.0.1", port=taken.getsockname()[1])
    assert not clock.slept


def test_an_address_of_another_machine_is_no_matter_of_ports(clock: Clock) -> None:
    other = pytest.raises(ConfigError, match="no such address, choose another host")
    with zmq.Context() as context, context.socket(zmq.PULL) as socket, other:
        listen(socket, "tcp://192.0.2.1:0", patience_s=5.0)
    assert not clock.slept


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_what_the_machine_lacks_is_no_wrong_setting(number: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: object, address: str) -> None:
        raise zmq.ZMQError(number)

    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        monkeypatch.setattr(zmq.Socket, "bind", bind)
        with pytest.raises(StagelineError, match=r"^cannot listen on tcp://127\.0\.0\.1:7 \(") as caught:
            listen(socket, "tcp://127.0.0.1:7", patience_s=5.0)
    assert not isinstance(caught.value, ConfigError) and not clock.slept
