"""The socket factory: loopback only, the options that no socket may be without, nothing left open."""

from __future__ import annotations

import signal
import socket as system
import subprocess
import sys
from collections.abc import Iterator

import pytest
import zmq

from stageline.addresses import check_loopback
from stageline.errors import ConfigError
from stageline.messages import BLOBS, CHANNELS, CONTROL, DATA, PLAN, TOPIC_PLAN
from stageline.monitors import link_event, link_monitor, peer_monitor, read_monitor
from stageline.sockets import Sockets, host_key

WAIT_MS = 10_000


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "127.9.9.9:0", "[::1]:0", "localhost:5", "ipc://@x"])
def test_loopback_is_allowed(address: str) -> None:
    check_loopback(address)


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:1", "tcp://*:0", "192.168.1.7:80", "[::]:0", "example.org:1"])
def test_anything_else_is_refused(address: str, sockets: Sockets) -> None:
    with pytest.raises(ConfigError, match="refusing to listen"):
        check_loopback(address)
    with pytest.raises(ConfigError, match="refusing to listen"):
        sockets.bind(CONTROL, address)


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda c: c.name)
def test_no_socket_lingers_or_takes_messages_of_any_size(channel: object, sockets: Sockets) -> None:
    bound, address = sockets.bind(channel, "tcp://127.0.0.1:0")  # type: ignore[arg-type]
    connected = sockets.connect(channel, address)  # type: ignore[arg-type]
    for socket in (bound, connected):
        assert socket.getsockopt(zmq.LINGER) == 0
        assert socket.getsockopt(zmq.MAXMSGSIZE) > 0


def test_bulk_and_control_do_not_share_a_context(sockets: Sockets) -> None:
    control, _ = sockets.bind(CONTROL, "tcp://127.0.0.1:0")
    plan, _ = sockets.bind(PLAN, "tcp://127.0.0.1:0")
    data, _ = sockets.bind(DATA, "tcp://127.0.0.1:0")
    blobs, _ = sockets.bind(BLOBS, "tcp://127.0.0.1:0")
    assert control.context is plan.context
    assert data.context is blobs.context
    assert control.context is not data.context


def test_a_busy_port_says_so(sockets: Sockets) -> None:
    _, address = sockets.bind(CONTROL, "tcp://127.0.0.1:0")
    with pytest.raises(ConfigError, match="choose another port"):
        sockets.bind(CONTROL, address)


def test_a_malformed_address_says_so(sockets: Sockets) -> None:
    with pytest.raises(ConfigError, match="want tcp://HOST:PORT"):
        sockets.connect(CONTROL, "nonsense")


def test_a_subscriber_hears_whole_topics_only(sockets: Sockets) -> None:
    publisher, address = sockets.bind(PLAN, "tcp://127.0.0.1:0")
    subscriber = sockets.connect(PLAN, address)
    while not subscriber.poll(20):
        publisher.send_multipart([b"planet", b"no"])
        publisher.send_multipart([TOPIC_PLAN, b"yes"])
    assert subscriber.recv_multipart() == [TOPIC_PLAN, b"yes"]


def test_data_goes_over_ipc_on_one_host_and_tcp_otherwise(sockets: Sockets) -> None:
    receiver, endpoint = sockets.bind_data("127.0.0.1")
    assert endpoint.host == host_key()
    assert endpoint.address_from(host_key()).startswith("ipc://@")
    assert endpoint.address_from("elsewhere") == endpoint.tcp
    for address in (endpoint.tcp, endpoint.ipc):
        sender = sockets.connect(DATA, address)
        assert sender.poll(WAIT_MS, zmq.POLLOUT)
        sender.send(address.encode())
        assert receiver.poll(WAIT_MS)
        assert receiver.recv() == address.encode()


def test_without_unix_sockets_data_goes_over_tcp_on_one_host_too() -> None:
    sockets = Sockets("tcp")
    try:
        _, endpoint = sockets.bind_data("127.0.0.1")
        assert endpoint.ipc == "" and endpoint.address_from(host_key()) == endpoint.tcp
    finally:
        sockets.close()


def test_a_monitor_sees_the_peer_come_and_go(sockets: Sockets) -> None:
    bound, address = sockets.bind(CONTROL, "tcp://127.0.0.1:0")
    monitor = peer_monitor(bound)
    assert list(read_monitor(monitor)) == []
    peer = sockets.connect(CONTROL, address)
    assert monitor.poll(WAIT_MS)
    ((came, descriptor),) = read_monitor(monitor)
    assert came
    sockets.release(peer)
    assert monitor.poll(WAIT_MS)
    assert list(read_monitor(monitor)) == [(False, descriptor)]


def test_close_closes_everything() -> None:
    made = Sockets()
    bound, _ = made.bind(CONTROL, "tcp://127.0.0.1:0")
    monitor = peer_monitor(bound)
    made.close()
    assert bound.closed and monitor.closed


def test_data_may_be_reached_at_another_address_than_where_it_listens(sockets: Sockets) -> None:
    with system.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    receiver, endpoint = sockets.bind_data("127.0.0.1", port=port, reached_at="tcp://127.0.0.1:7720")
    assert endpoint.address_from(host_key()) == "tcp://127.0.0.1:7720", "not by a Unix socket"
    sender = sockets.connect(DATA, f"tcp://127.0.0.1:{port}")
    sender.poll(WAIT_MS, zmq.POLLOUT)
    sender.send(b"hello")
    assert receiver.poll(WAIT_MS)


def test_a_watched_connection_tells_when_it_stands_and_when_it_breaks(sockets: Sockets) -> None:
    bound, address = sockets.bind(DATA, "tcp://127.0.0.1:0")
    push = sockets.connect(DATA, address, watched=True)
    monitor = link_monitor(push)
    assert monitor.poll(WAIT_MS)
    assert link_event(monitor.recv_multipart()) is True
    sockets.release(bound)
    assert monitor.poll(WAIT_MS)
    assert link_event(monitor.recv_multipart()) is False
    sockets.release(push)
    assert monitor.closed


def test_a_watched_connection_breaks_when_its_peer_is_frozen(sockets: Sockets) -> None:
    script = "import time; from stageline.messages import DATA; from stageline.sockets import Sockets; made = Sockets()"
    script += '; print(made.bind(DATA, "tcp://127.0.0.1:0")[1], flush=True); time.sleep(600)'
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        push = sockets.connect(DATA, child.stdout.readline().strip(), watched=True)
        monitor = link_monitor(push)
        try:
            for number, up in ((None, True), (signal.SIGSTOP, False), (signal.SIGCONT, True), (signal.SIGKILL, False)):
                if number is not None:
                    child.send_signal(number)
                while monitor.poll(WAIT_MS) and link_event(monitor.recv_multipart()) is not up:
                    pass
                assert push.poll(WAIT_MS, zmq.POLLOUT) if up else True
        finally:
            child.kill()
