"""The one place where ZeroMQ sockets are made.

Options that a socket must not be without are set here: LINGER 0 (the gateway's table holds the truth, not a pipe),
MAXMSGSIZE, HANDSHAKE_IVL, IMMEDIATE on senders (no queueing for a peer that is not there). Data sockets get no ZMTP
heartbeats: at their high-water mark libzmq stops reading, pings go unread and messages die. Those that are `watched`
have them, and carry no data. Control traffic runs in a context of its own, so that bulk data on the other I/O thread
cannot delay it.

With a keyring everything is encrypted and both ends are known (CURVE), whatever the transport: a Unix socket without a
file may be connected to by any user of the machine. Without one nothing listens beyond loopback.
"""

from __future__ import annotations

import os
import socket as system
import uuid
from pathlib import Path
from typing import Literal

import zmq

from stageline import monitors
from stageline.addresses import advertise, check_loopback, is_loopback, split_key, with_key
from stageline.checksum import Checksum
from stageline.data import MAX_FRAME_BYTES
from stageline.errors import ConfigError, StagelineError
from stageline.gatekeeper import FAILED, Gatekeeper
from stageline.keyring import Keyring
from stageline.listening import listen
from stageline.messages import (
    BLOBS,
    CONTROL,
    DATA,
    JOIN,
    LOCAL,
    MAX_BALLAST_BYTES,
    MAX_JOIN_BYTES,
    PLAN,
    PROBE,
    Channel,
)
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

WATCH_MS, WATCH_SILENCE_MS = 100, 500
"""A `watched` connection without a sign of life for so long counts as broken."""

Socket = zmq.Socket[bytes]
Transport = Literal["auto", "tcp"]
"""auto: also Unix sockets, for peers on the same machine."""

_MAX_BYTES = {DATA.name: MAX_FRAME_BYTES, BLOBS.name: 4 << 20, PROBE.name: MAX_BALLAST_BYTES, JOIN.name: MAX_JOIN_BYTES}


def host_key() -> str:
    """Equal for two processes exactly when ipc (abstract Unix sockets) works between them."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()}/{Path('/proc/self/ns/net').stat().st_ino}"
    except OSError:
        return f"{system.gethostname()}/{os.getuid()}"


def _asked(checksum: Checksum, away: bool) -> Literal["", "tcp", "all"]:
    """What an endpoint says of checksums; `away`: others on other hosts may reach it."""
    if checksum == "always":
        return "all"
    return "tcp" if checksum == "auto" and away else ""


class Sockets:
    """Makes the sockets of one process and closes them all with `close`.

    `advertised`: the host that others are told (empty: the one that a socket is bound to).
    Not thread-safe per socket (ZeroMQ sockets belong to one thread), but `bind` and `connect` may be called from any.
    """

    def __init__(self, transport: Transport = "auto", keyring: Keyring | None = None, *, advertised: str = "") -> None:
        self._unix = transport == "auto"
        self.keyring, self.advertised = keyring, advertised
        self._control = zmq.Context()
        self._data = zmq.Context()
        self._open: list[Socket] = []
        self._gatekeeper: Gatekeeper | None = None

    @property
    def introduction(self) -> object:
        """Changes when a connection to the coordinator that is made now has other keys than one of before."""
        return (self.keyring.own, self.keyring.coordinator) if self.keyring is not None else None

    def bind(self, channel: Channel, address: str, *, patience_s: float = 0.0) -> tuple[Socket, str]:
        """A bound socket and the address it really has (port 0 picks a free one).

        Raises `ConfigError` for an address beyond loopback without keys, and as `listen` does.
        """
        if self.keyring is None:
            check_loopback(address)
        socket = self._make(channel, channel.bind_type)
        self._guard(socket, channel)
        try:
            listen(socket, address, patience_s)
        except StagelineError:
            self.release(socket)
            raise
        return socket, socket.get_string(zmq.LAST_ENDPOINT)

    def bind_data(
        self,
        host: str,
        channel: Channel = DATA,
        *,
        port: int = 0,
        reached_at: str = "",
        checksum: Checksum = "auto",
        patience_s: float = 0.0,
    ) -> tuple[Socket, Endpoint]:
        """A socket that listens on TCP (a free port of `host`) and, with transport auto, on an abstract ipc address.

        `port`: 0 for any free one. `reached_at`: the one address by which others reach it, where that is another.
        Raises what `bind` does.
        """
        socket, tcp = self.bind(channel, f"tcp://{host}:{port}", patience_s=patience_s)
        key = self.keyring.data.public if self.keyring is not None else b""
        tcp = with_key(reached_at or advertise(tcp, self.advertised), key)
        asked = _asked(checksum, away=bool(reached_at) or not is_loopback(host))
        if reached_at or not self._unix:
            return socket, Endpoint(tcp=tcp, checksum=asked)
        ipc = f"ipc://@stageline-{uuid.uuid4().hex}"
        try:
            socket.bind(ipc)
        except zmq.ZMQError:
            ipc = ""
        return socket, Endpoint(tcp=tcp, ipc=with_key(ipc, key), host=host_key() if ipc else "", checksum=asked)

    def connect(
        self, channel: Channel, address: str, *, identity: bytes = b"", watched: bool = False, tried: bool = False
    ) -> Socket:
        """A connected socket; `watched`: it has heartbeats and a `link_monitor`, and nothing should be sent on it.

        `tried`: the same without heartbeats, and `monitors.progress` tells how far it has come.

        With keys, a connection to a coordinator has a monitor too, see `monitors.refusal`.
        Raises `ConfigError` for a malformed address, or an identity that is too long.
        """
        if len(identity) > MAX_IDENTITY_BYTES:
            raise ConfigError(f"a name of {len(identity)} bytes is too long: choose one of at most 200")
        plain, told = split_key(address)
        socket = self._make(channel, channel.connect_type)
        self._introduce(socket, channel, told)
        if watched:
            socket.setsockopt(zmq.HEARTBEAT_IVL, WATCH_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, WATCH_SILENCE_MS)
        if watched or tried or (channel in (CONTROL, JOIN) and self.keyring is not None):
            monitors.watch(socket, tried=tried)
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity)
        try:
            socket.connect(plain)
        except zmq.ZMQError as error:
            self.release(socket)
            raise ConfigError(f"cannot connect to {address}: {error.strerror}; want tcp://HOST:PORT") from None
        return socket

    def within(self, channel: Channel, bound: Socket) -> Socket:
        """A socket connected to `bound`, which is this process's own, for another of its threads."""
        address = f"inproc://{uuid.uuid4().hex}"
        bound.bind(address)
        socket = self._make(channel, channel.connect_type)  # within a context nothing is encrypted, and nobody asked
        socket.connect(address)
        return socket

    def close(self) -> None:
        """Close every socket and both contexts."""
        for socket in self._open:
            monitors.close(socket)
        self._open.clear()
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        for context in (self._control, self._data):
            context.destroy(linger=0)  # not term(): it would wait for ever for a monitor that somebody still holds

    def release(self, socket: Socket) -> None:
        """Close one socket early."""
        if socket in self._open:
            self._open.remove(socket)
        monitors.close(socket)

    def _guard(self, socket: Socket, channel: Channel) -> None:
        """Let in only peers whose key is known. The handler that decides is there before anything is bound."""
        if self.keyring is None:
            return
        if self._gatekeeper is None:
            self._gatekeeper = Gatekeeper((self._control, self._data), self.keyring)
        pair = self.keyring.pair(channel)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, channel.name.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        if channel is not CONTROL:  # who reads that one has its monitor
            self._gatekeeper.watch(socket.get_monitor_socket(FAILED), channel.name)

    def _introduce(self, socket: Socket, channel: Channel, told: bytes) -> None:
        """Show who we are to nobody but who has the key that we were told."""
        if self.keyring is None:
            if told:
                raise ConfigError("the peer has a key and we have none: name a directory of keys with --keys-dir")
            return
        pair, server = self.keyring.pair(channel), self.keyring.server(channel, told)
        if not server:
            raise ConfigError("the peer's address bears no key, and we talk to nobody without: it runs without keys")
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server)

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
    if channel in (CONTROL, JOIN, LOCAL):
        socket.setsockopt(zmq.IMMEDIATE, 0)
