"""The control socket says whose connection broke, whatever connections came and went under a name before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from stageline.messages import CONTROL, Farewell, Leaving, control_identity
from stageline.sockets import Socket, Sockets
from stageline.wire import encode
from stageline_coordinator.control import ControlSocket, Lost

from .conftest import wait_until

NAME = "agent:x"


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with closing(Sockets()) as made:
        yield made


def hear(control: ControlSocket, sender: Socket) -> None:
    sender.send(encode(Leaving(name="x")))
    wait_until("the message is there", lambda: [item for item in control.receive() if not isinstance(item, Lost)])


def lost(control: ControlSocket) -> bool:
    return Lost(NAME) in control.receive()


def test_a_connection_whose_name_another_has_taken_does_not_hide_the_end_of_that_one(sockets: Sockets) -> None:
    bound, address = sockets.bind(CONTROL, "tcp://127.0.0.1:0")
    control = ControlSocket(bound)
    first = sockets.connect(CONTROL, address, identity=NAME.encode())
    hear(control, first)
    second = sockets.connect(CONTROL, address, identity=NAME.encode())
    hear(control, second)
    sockets.release(second)
    wait_until("the end of the second connection is told", lambda: lost(control))


def test_incarnations_of_one_name_are_heard_and_told_side_by_side(sockets: Sockets) -> None:
    bound, address = sockets.bind(CONTROL, "tcp://127.0.0.1:0")
    control = ControlSocket(bound)
    names = [control_identity("agent", "x", incarnation) for incarnation in ("i1", "i2")]
    first, second = (sockets.connect(CONTROL, address, identity=name.encode()) for name in names)
    hear(control, first)
    hear(control, second)
    for name, peer in zip(names, (first, second), strict=True):
        assert control.send(name, Farewell())
        assert peer.poll(10_000)
        peer.recv()
    sockets.release(second)
    wait_until("the end of the second connection is told", lambda: Lost(names[1]) in control.receive())
    assert control.send(names[0], Farewell()) and first.poll(10_000)
