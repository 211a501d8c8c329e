"""Sockets with keys: who is let in on which channel, and what happens to everybody else."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator

import pytest
import zmq

from stageline import logs
from stageline.curve import KeyPair
from stageline.errors import ConfigError
from stageline.gatekeeper import user_of
from stageline.keyring import Keyring, Principal
from stageline.messages import BLOBS, CHANNELS, CONTROL, DATA, LOCAL, PLAN, PROBE, Admit, Channel
from stageline.monitors import refusal
from stageline.sockets import Socket, Sockets

WAIT_MS = 10_000
QUIET_MS = 150
SERVER = KeyPair.fresh()
NODE = KeyPair.fresh()
Make = Callable[..., Sockets]


@pytest.fixture
def make() -> Iterator[Make]:
    """Sockets with a keyring, or without."""
    made: list[Sockets] = []

    def new(keyring: Keyring | None = None, **how: str) -> Sockets:
        made.append(Sockets(keyring=keyring, **how))
        return made[-1]

    yield new
    for sockets in made:
        sockets.close()


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict[str, str]]]]:
    """What was logged."""
    stream = io.StringIO()
    logs.configure(service="test", style="json", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.configure(service="test")


def server() -> Keyring:
    return Keyring(SERVER, SERVER.public, principals={NODE.public: Principal("node", "n")})


def exchange(bound: Socket, connected: Socket, channel: Channel) -> bool:
    """Whether a message passes, in the direction of the channel."""
    if channel is PLAN:
        for _ in range(WAIT_MS // 20):
            bound.send_multipart([b"plan\x00", b"hello"])
            if connected.poll(20):
                return True
        return False
    if not connected.poll(WAIT_MS, zmq.POLLOUT):
        return False
    connected.send(b"hello")
    return bool(bound.poll(WAIT_MS))


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda c: c.name)
def test_who_is_known_is_let_in_on_every_channel(channel: Channel, make: Make) -> None:
    here = server()
    there = Keyring(NODE, SERVER.public)
    if channel is LOCAL:  # an agent and its executor have one pair
        there.data = here.data
    here.admit(Admit(version=1, keys=(there.data.public,)))
    if channel in (DATA, PROBE):
        bound, endpoint = make(here).bind_data("127.0.0.1", channel)
        address = endpoint.tcp
        assert f"?key={here.data.public.hex()}" in endpoint.tcp and "?key=" in endpoint.ipc
        assert exchange(bound, make(there).connect(channel, endpoint.ipc), channel), "over a Unix socket, too"
    else:
        bound, address = make(here).bind(channel, "tcp://127.0.0.1:0")
    assert exchange(bound, make(there).connect(channel, address), channel)
    assert bound.getsockopt(zmq.MECHANISM) == zmq.CURVE


@pytest.mark.parametrize("channel", [CONTROL, PLAN, BLOBS, LOCAL], ids=lambda c: c.name)
def test_a_stranger_with_a_key_is_refused_and_logged(
    channel: Channel, make: Make, log: Callable[[], list[dict[str, str]]]
) -> None:
    here = server()
    bound, address = make(here).bind(channel, "tcp://127.0.0.1:0")
    stranger = Keyring(KeyPair.fresh(), SERVER.public)
    if channel is LOCAL:
        stranger.server = lambda channel, told: here.data.public  # type: ignore[method-assign]
    socket = make(stranger).connect(channel, address)
    for _ in range(WAIT_MS // 50):
        if channel is PLAN:
            bound.send_multipart([b"plan\x00", b"secret"])
        elif socket.poll(0, zmq.POLLOUT):
            socket.send(b"hello", zmq.NOBLOCK)
        if any(line["event"].startswith("refused") for line in log()):
            break
        assert not (socket if channel is PLAN else bound).poll(50)
    (line,) = log()
    shown = stranger.data if channel is LOCAL else stranger.own
    assert line["channel"] == channel.name and shown.public.hex().startswith(line["key"])
    assert not (socket if channel is PLAN else bound).poll(QUIET_MS)


def test_a_plain_text_peer_is_refused_and_logged(make: Make, log: Callable[[], list[dict[str, str]]]) -> None:
    for channel in (PLAN, BLOBS):
        bound, address = make(server()).bind(channel, "tcp://127.0.0.1:0")
        socket = make().connect(channel, address)
        for _ in range(WAIT_MS // 50):
            if any(line.get("channel") == channel.name for line in log()):
                break
            assert not (socket if channel is PLAN else bound).poll(50)
    assert [line["event"].partition(":")[0] for line in log()] == ["refused", "refused"]


def test_a_peer_is_let_in_as_soon_as_its_key_is_known(make: Make) -> None:
    here, there = server(), Keyring(NODE, SERVER.public)
    bound, endpoint = make(here).bind_data("127.0.0.1")
    socket = make(there).connect(DATA, endpoint.tcp)
    assert not socket.poll(QUIET_MS, zmq.POLLOUT)
    here.admit(Admit(version=1, keys=(there.data.public,), beside=True))
    assert exchange(bound, socket, DATA), "it was not told to go away for good"


def test_who_takes_us_for_another_shows_nothing(make: Make) -> None:
    bound, address = make(server()).bind(CONTROL, "tcp://127.0.0.1:0")
    socket = make(Keyring(NODE, KeyPair.fresh().public)).connect(CONTROL, address)
    socket.send(b"hello")
    why = ""
    for _ in range(WAIT_MS // 20):
        assert not bound.poll(20)
        why = why or refusal(socket)
        if why:
            break
    assert "not the one whose key we have" in why


def test_who_is_not_known_learns_that(make: Make) -> None:
    _, address = make(server()).bind(CONTROL, "tcp://127.0.0.1:0")
    socket = make(Keyring(KeyPair.fresh(), SERVER.public)).connect(CONTROL, address)
    for _ in range(WAIT_MS // 20):
        if why := refusal(socket):
            break
        socket.poll(20)
    assert why == "it does not know our key"


def test_an_address_without_a_key_is_not_talked_to(make: Make) -> None:
    with pytest.raises(ConfigError, match="bears no key"):
        make(server()).connect(DATA, "tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="we have none"):
        make().connect(DATA, "tcp://127.0.0.1:1?key=" + "00" * 32)


def test_with_keys_it_may_listen_beyond_loopback_and_say_where(make: Make) -> None:
    bound, endpoint = make(server(), advertised="127.0.0.1").bind_data("0.0.0.0")
    assert endpoint.tcp.startswith("tcp://127.0.0.1:")
    there = Keyring(NODE, SERVER.public)
    with pytest.raises(ConfigError, match="keys init"):
        make().bind_data("0.0.0.0")
    assert not make(there).connect(DATA, endpoint.tcp).poll(QUIET_MS, zmq.POLLOUT)
    assert not bound.poll(0)


def test_new_lists_take_the_place_of_old_ones_unless_beside_and_revoked_is_for_good() -> None:
    ring = server()
    a, b = b"a" * 32, b"b" * 32
    ring.admit(Admit(version=1, keys=(a,)))
    ring.admit(Admit(version=2, keys=(b,), beside=True))
    assert ring.peers == {a, b}
    ring.admit(Admit(version=3, keys=(b,), beside=True, revoked=(a,)))
    assert ring.peers == {b} and ring.revoked == {a.hex()}
    ring.admit(Admit(version=4, keys=()))
    assert ring.peers == frozenset()
    assert ring.admits("data", a) == (b"300", "") and ring.admits("control", a) == (b"400", "")


def test_whose_key_a_message_came_under_is_known_also_over_a_connection_of_before(make: Make) -> None:
    here, there = server(), Keyring(NODE, SERVER.public)
    here.admit(Admit(version=1, keys=(there.data.public,)))
    bound, endpoint = make(here).bind_data("127.0.0.1")
    assert exchange(bound, make(there).connect(DATA, endpoint.tcp), DATA)
    here.admit(Admit(version=2, keys=(), revoked=(there.data.public,)))
    assert user_of(bound.recv(copy=False)) in here.revoked
    open_to_all = make()
    bound, endpoint = open_to_all.bind_data("127.0.0.1")
    assert exchange(bound, open_to_all.connect(DATA, endpoint.tcp), DATA)
    assert user_of(bound.recv(copy=False)) == ""
