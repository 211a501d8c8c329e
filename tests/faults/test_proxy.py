"""The fault proxy does what its toxics say, counts it, and leaves nothing behind."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from faults.proxy import Proxy, ProxyThread
from faults.toxics import (
    Bandwidth,
    Corrupt,
    Direction,
    Drop,
    HalfOpen,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
    Truncate,
)

TIMEOUT_S = 20.0
PAYLOAD = bytes(range(256)) * 40


class Echo:
    """A server that sends back what it gets; `closed` is set when a connection of it has ended."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.closed = threading.Event()
        self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            while data := connection.recv(4096):
                self.received += len(data)
                connection.sendall(data)
        self.closed.set()


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.socket.shutdown(socket.SHUT_RDWR)
    made.socket.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with ProxyThread(seed=1) as thread:
        yield thread.proxy(echo.socket.getsockname())


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S)


def ask(client: socket.socket, payload: bytes = PAYLOAD) -> bytes:
    client.sendall(payload)
    return read(client, len(payload))


def read(client: socket.socket, size: int) -> bytes:
    """Up to `size` bytes: fewer if the stream ends before, cleanly or not."""
    got = b""
    with suppress(ConnectionError):
        while len(got) < size and (data := client.recv(size - len(got))):
            got += data
    return got


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_without_toxics_bytes_pass_and_are_counted(proxy: Proxy) -> None:
    with closing(connect(proxy)) as client:
        assert ask(client) == PAYLOAD
    wait(lambda: proxy.open == 0)
    assert proxy.counts["accepted"] == 1
    assert proxy.counts["up"] == proxy.counts["down"] == len(PAYLOAD)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize(
    "toxic", [Latency(1.0, 1.0), Bandwidth(1e6), Slicer(1000)], ids=["latency", "bandwidth", "slicer"]
)
def test_what_delays_loses_nothing(proxy: Proxy, toxic: Toxic, direction: Direction) -> None:
    proxy.add(toxic, direction)
    with closing(connect(proxy)) as client:
        assert ask(client) == PAYLOAD
    assert proxy.counts[type(toxic).__name__.lower()] >= 1


def test_a_toxic_acts_on_open_connections_and_goes_again(proxy: Proxy) -> None:
    with closing(connect(proxy)) as client:
        assert ask(client) == PAYLOAD
        proxy.partition()
        client.sendall(PAYLOAD)
        wait(lambda: proxy.counts["hold"])
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(TIMEOUT_S)
        proxy.heal()
        assert read(client, len(PAYLOAD)) == PAYLOAD


def test_a_one_way_drop_is_silent_and_breaks_the_stream_when_it_ends(proxy: Proxy, echo: Echo) -> None:
    with closing(connect(proxy)) as client:
        assert ask(client, b"before") == b"before"
        proxy.add(Drop(), "down")
        client.sendall(b"lost")
        wait(lambda: proxy.counts["drop"])
        assert echo.received == len(b"before" + b"lost"), "the other way is open"
        proxy.heal()
        assert read(client, 1) == b""
    with closing(connect(proxy)) as client:
        assert ask(client) == PAYLOAD


def test_a_half_open_connection_ends_at_one_side_only(proxy: Proxy, echo: Echo) -> None:
    with closing(connect(proxy)) as client:
        assert ask(client, b"before") == b"before"
        proxy.add(HalfOpen())
        assert echo.closed.wait(TIMEOUT_S)
        client.sendall(PAYLOAD)
        wait(lambda: proxy.counts["drop"])
        assert proxy.counts["halfopen"] == 1
        assert echo.received == len(b"before")


@pytest.mark.parametrize(
    ("toxic", "most"),
    [(ResetPeer(), 0), (Timeout(1.0), 0), (Truncate(), len(PAYLOAD) // 2), (LimitData(1000), 1000)],
    ids=["reset_peer", "timeout", "truncate", "limit_data"],
)
def test_what_breaks_a_connection_does_so_in_the_middle(proxy: Proxy, toxic: Toxic, most: int) -> None:
    proxy.add(toxic, "down")
    with closing(connect(proxy)) as client:
        got = ask(client)
        assert len(got) <= most
        assert PAYLOAD.startswith(got)
    assert proxy.counts[type(toxic).__name__.lower()] >= 1


def test_limited_data_pass_to_the_last_byte(proxy: Proxy) -> None:
    proxy.add(LimitData(1000), "down")
    with closing(connect(proxy)) as client:
        assert ask(client) == PAYLOAD[:1000]


def test_a_slow_close_still_closes(proxy: Proxy, echo: Echo) -> None:
    proxy.add(SlowClose(1.0))
    with closing(connect(proxy)) as client:
        assert ask(client) == PAYLOAD
        client.shutdown(socket.SHUT_WR)
        assert echo.closed.wait(TIMEOUT_S)
    assert proxy.counts["slowclose"] == 1


def test_corruption_flips_single_bits(proxy: Proxy) -> None:
    proxy.add(Corrupt(), "down")
    with closing(connect(proxy)) as client:
        got = ask(client)
    flipped = sum(bin(a ^ b).count("1") for a, b in zip(got, PAYLOAD, strict=True))
    assert flipped == proxy.counts["corrupt"] >= 1


def test_reset_breaks_what_is_open(proxy: Proxy) -> None:
    with closing(connect(proxy)) as client:
        assert ask(client) == PAYLOAD
        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_nobody_upstream_is_a_reset_and_counted(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nowhere = unused.getsockname()
    with ProxyThread() as thread:
        proxy = thread.proxy(nowhere)
        with suppress(ConnectionError), closing(connect(proxy)) as client:
            assert read(client, 1) == b""
        wait(lambda: proxy.counts["refused"] == 1)


def test_nothing_is_left_behind(echo: Echo) -> None:
    before = (threading.active_count(), len(list(Path("/proc/self/fd").iterdir())))
    with ProxyThread() as thread:
        proxy = thread.proxy(echo.socket.getsockname())
        client = connect(proxy)
        assert ask(client) == PAYLOAD
        proxy.partition()
        client.sendall(PAYLOAD)
        wait(lambda: proxy.counts["hold"])
    assert read(client, 1) == b""
    client.close()
    assert echo.closed.wait(TIMEOUT_S)
    wait(lambda: threading.active_count() <= before[0])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before[1] + 1
