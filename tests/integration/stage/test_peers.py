from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
import zmq

from stageline import logs
from stageline.messages import DATA
from stageline.sockets import Socket, Sockets
from stageline_stage.executor.peers import MAX_PENDING, UNREACHABLE_S, UNUSED_S, Peers


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


@pytest.fixture
def peers(sockets: Sockets) -> Peers:
    return Peers(sockets, logs.get())


def free_address() -> str:
    """Where nobody listens; a TCP port could meanwhile be given to somebody else."""
    return f"ipc://@stageline-{uuid.uuid4().hex}"


def received(pull: Socket, peers: Peers) -> list[bytes]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        poller = zmq.Poller()
        poller.register(pull, zmq.POLLIN)
        for socket in peers.waiting():
            poller.register(socket, zmq.POLLOUT)
        if pull in dict(poller.poll(50)):
            return pull.recv_multipart()
        peers.flush(1.0)
    raise AssertionError("nothing came")


def test_messages_wait_for_a_peer_that_is_not_there_yet(sockets: Sockets, peers: Peers) -> None:
    address = free_address()
    peers.send(address, [b"one", b"1"], 0.0)
    peers.send(address, [b"two"], 0.0)
    assert len(list(peers.waiting())) == 1
    pull, _ = sockets.bind(DATA, address)
    assert received(pull, peers) == [b"one", b"1"]
    assert received(pull, peers) == [b"two"]
    assert not list(peers.waiting()) and peers.dropped == 0
    peers.close(0)


def test_a_peer_that_stays_away_is_given_up(peers: Peers) -> None:
    peers.send(free_address(), [b"lost"], 0.0)
    peers.prune(UNREACHABLE_S - 1)
    assert peers.dropped == 0
    peers.prune(UNREACHABLE_S + 1)
    assert peers.dropped == 1 and not list(peers.waiting())


def test_what_waits_is_bounded(peers: Peers) -> None:
    address = free_address()
    for _ in range(MAX_PENDING + 3):
        peers.send(address, [b"x"], 0.0)
    assert peers.dropped == 3
    peers.close(0)


def test_idle_connections_are_closed(sockets: Sockets, peers: Peers) -> None:
    pull, address = sockets.bind(DATA, "tcp://127.0.0.1:0")
    peers.send(address, [b"x"], 0.0)
    assert received(pull, peers) == [b"x"]
    peers.prune(UNUSED_S + 2)
    peers.send(address, [b"y"], UNUSED_S + 3)
    assert received(pull, peers) == [b"y"]
    peers.close(0)


def test_a_slow_peer_does_not_hold_up_another(sockets: Sockets, peers: Peers) -> None:
    pull, there = sockets.bind(DATA, "tcp://127.0.0.1:0")
    peers.send(free_address(), [b"stuck"], 0.0)
    peers.send(there, [b"through"], 0.0)
    assert received(pull, peers) == [b"through"]
    peers.close(0)


def test_addresses_beyond_the_rules_are_refused(peers: Peers) -> None:
    for address in ("ipc:///tmp/x", "tcp://not an address", "inproc://a"):
        peers.send(address, [b"x"], 0.0)
    assert peers.dropped == 3
