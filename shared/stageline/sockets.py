"""The one place where ZeroMQ sockets are made.

Options that a socket must not be without are set here: LINGER 0 (the gateway's table holds the truth, not a pipe),
MAXMSGSIZE, HANDSHAKE_IVL, IMMEDIATE on senders (no queueing for a peer that is not there). Data sockets get no ZMTP
heartbeats: at their high-water mark libzmq stops reading, pings go unread and messages die. Those that are `watched`
have them, and carry no data. Control traffic runs in a context of its own, so that bulk data on the other I/O thread
cannot delay it.
"""

from __future__ import annotations

import ipaddress
import os
import socket as system
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import zmq
from zmq.utils.monitor import parse_monitor_message, recv_monitor_message

from stageline.checksum import Checksum
from stageline.data import MAX_FRAME_BYTES
from stageline.errors import ConfigError
from stageline.messages import BLOBS, CONTROL, DATA, LOCAL, MAX_BALLAST_BYTES, PLAN, PROBE, Channel
from stageline.plan import Endpoint
from stageline.wire import MAX_CONTROL_BYTES

HANDSHAKE_MS = 3000
CONTROL_HWM = 10_000
DATA_HWM = 100_000
"""Above any sum of windows: byte credits at the gateways bound what is in flight, never libzmq."""

COPY_BELOW_BYTES = 1 << 20
"""Smaller buffers are copied into libzmq's message even where the sender says `copy=False`: pyzmq frees the others in a
thread of its own, and waking it for every message costs more than copying 800 KB (benchmarks/hop.py)."""

MAX_IDENTITY_BYTES = 255

WATCH_MS, WATCH_SILENCE_MS = 100, 600
"""A `watched` connection without a sign of life for so long counts as broken."""

Socket = zmq.Socket[bytes]
Transport = Literal["auto", "tcp"]
"""auto: also Unix sockets, for peers on the same machine."""

_MAX_BYTES = {DATA.name: MAX_FRAME_BYTES, BLOBS.name: 4 << 20, PROBE.name: MAX_BALLAST_BYTES}


def host_key() -> str:
    """Equal for two processes exactly when ipc (abstract Unix sockets) works between them."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()}/{Path('/proc/self/ns/net').stat().st_ino}"
    except OSError:
        return f"{system.gethostname()}/{os.getuid()}"


def check_loopback(address: str) -> None:
    """Raise `ConfigError` if binding `address` (``tcp://host:port``, ``host:port``) would listen beyond loopback."""
    host = address.removeprefix("tcp://").rsplit(":", 1)[0].strip("[]")
    if address.startswith(("ipc://", "inproc://")) or host == "localhost":
        return
    if not _is_loopback(host):
        raise ConfigError(
            f"refusing to listen on {host}: beyond loopback Stageline listens only with keys, "
            "and this version has none yet; bind to 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _asked(checksum: Checksum, away: bool) -> Literal["", "tcp", "all"]:
    """What an endpoint says of checksums; `away`: others on other hosts may reach it."""
    if checksum == "always":
        return "all"
    return "tcp" if checksum == "auto" and away else ""


class Sockets:
    """Makes the sockets of one process and closes them all with `close`.

    Not thread-safe per socket (ZeroMQ sockets belong to one thread), but `bind` and `connect` may be called from any.
    """

    def __init__(self, transport: Transport = "auto") -> None:
        self._unix = transport == "auto"
        self._control = zmq.Context()
        self._data = zmq.Context()
        self._open: list[Socket] = []

    def bind(self, channel: Channel, address: str) -> tuple[Socket, str]:
        """A bound socket and the address it really has (port 0 picks a free one).

        Raises `ConfigError` for an address beyond loopback, a busy port or a malformed address.
        """
        check_loopback(address)
        socket = self._make(channel, channel.bind_type)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close()
            raise ConfigError(f"cannot listen on {address} ({error.strerror}): choose another port") from None
        return socket, socket.get_string(zmq.LAST_ENDPOINT)

    def bind_data(
        self,
        host: str,
        channel: Channel = DATA,
        *,
        port: int = 0,
        reached_at: str = "",
        checksum: Checksum = "auto",
    ) -> tuple[Socket, Endpoint]:
        """A socket that listens on TCP (a free port of `host`) and, with transport auto, on an abstract ipc address.

        `port`: 0 for any free one. `reached_at`: the one address by which others reach it, where that is another.
        """
        socket, tcp = self.bind(channel, f"tcp://{host}:{port}")
        asked = _asked(checksum, away=bool(reached_at) or not _is_loopback(host))
        if reached_at or not self._unix:
            return socket, Endpoint(tcp=reached_at or tcp, checksum=asked)
        ipc = f"ipc://@stageline-{uuid.uuid4().hex}"
        try:
            socket.bind(ipc)
        except zmq.ZMQError:
            ipc = ""
        return socket, Endpoint(tcp=tcp, ipc=ipc, host=host_key() if ipc else "", checksum=asked)

    def connect(self, channel: Channel, address: str, *, identity: bytes = b"", watched: bool = False) -> Socket:
        """A connected socket; `watched`: it has heartbeats and a `link_monitor`, and nothing should be sent on it.

        Raises `ConfigError` for a malformed address, or an identity that is too long.
        """
        if len(identity) > MAX_IDENTITY_BYTES:
            raise ConfigError(f"a name of {len(identity)} bytes is too long: choose one of at most 200")
        socket = self._make(channel, channel.connect_type)
        if watched:
            socket.setsockopt(zmq.HEARTBEAT_IVL, WATCH_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, WATCH_SILENCE_MS)
            _monitors[socket] = socket.get_monitor_socket(_LINK_EVENTS)
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            socket.close()
            raise ConfigError(f"cannot connect to {address}: {error.strerror}; want tcp://HOST:PORT") from None
        return socket

    def within(self, channel: Channel, bound: Socket) -> Socket:
        """A socket connected to `bound`, which is this process's own, for another of its threads."""
        address = f"inproc://{uuid.uuid4().hex}"
        bound.bind(address)
        return self.connect(channel, address)

    def close(self) -> None:
        """Close every socket and both contexts."""
        for socket in self._open:
            _close(socket)
        self._open.clear()
        for context in (self._control, self._data):
            context.destroy(linger=0)  # not term(): it would wait for ever for a monitor that somebody still holds

    def release(self, socket: Socket) -> None:
        """Close one socket early."""
        if socket in self._open:
            self._open.remove(socket)
        _close(socket)

    def _make(self, channel: Channel, kind: int) -> Socket:
        bulk = channel in (DATA, BLOBS, PROBE)
        context = self._data if bulk else self._control
        socket: Socket = context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_BYTES.get(channel.name, MAX_CONTROL_BYTES))
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        hwm = DATA_HWM if channel is DATA else CONTROL_HWM
        socket.setsockopt(zmq.SNDHWM, hwm)
        socket.setsockopt(zmq.RCVHWM, hwm)
        socket.copy_threshold = COPY_BELOW_BYTES
        _specialise(socket, channel, kind)
        self._open.append(socket)
        return socket


def _specialise(socket: Socket, channel: Channel, kind: int) -> None:
    if kind in (zmq.PUSH, zmq.DEALER):
        socket.setsockopt(zmq.IMMEDIATE, 1)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    if channel is PLAN and kind == zmq.SUB:
        for topic in (b"plan\x00", b"digest\x00"):
            socket.setsockopt(zmq.SUBSCRIBE, topic)
    if channel in (CONTROL, LOCAL):
        socket.setsockopt(zmq.IMMEDIATE, 0)


_LINK_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
_monitors: weakref.WeakKeyDictionary[Socket, Socket] = weakref.WeakKeyDictionary()


def _close(socket: Socket) -> None:
    if socket.closed:
        return
    monitor = _monitors.pop(socket, None)
    socket.disable_monitor()
    socket.close()
    if monitor is not None and not monitor.closed:  # pyzmq leaves it to the garbage collector; term() waits for it
        monitor.close()


def peer_monitor(socket: Socket) -> Socket:
    """A socket that is readable when a peer of the bound `socket` comes or goes, see `read_monitor`; closed with it."""
    monitor: Socket = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
    _monitors[socket] = monitor
    return monitor


def read_monitor(monitor: Socket) -> Iterator[tuple[bool, int]]:
    """(whether a peer came, its connection's file descriptor) of all that happened; a closed one's number is reused."""
    while monitor.poll(0):
        event: Any = recv_monitor_message(monitor, zmq.NOBLOCK)
        yield event["event"] == zmq.EVENT_ACCEPTED, int(event["value"])


def link_monitor(socket: Socket) -> Socket:
    """A socket that gives a message for `link_event` when the connection of a `watched` one changes; closed with it."""
    return _monitors[socket]


def link_event(frames: list[bytes]) -> bool | None:
    """Whether the connection stands now, by a message of a `link_monitor`; None for one that does not say."""
    event: Any = parse_monitor_message(frames)["event"]
    return None if event == zmq.EVENT_MONITOR_STOPPED else bool(event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
