"""Decides who may connect: a handler of ZAP (ZeroMQ RFC 27) for the contexts of a process, in a thread of its own.

CURVE alone lets any key in. This handler is there before any socket is bound, and lets in whom the keyring names. A
refusal is logged with the channel, the address and the beginning of the key; so are peers that do not get as far as
showing one, because they speak without keys or expect another key of us.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from stageline import logs
from stageline.keyring import Keyring

ADDRESS = "inproc://zeromq.zap.01"
SAY_AGAIN_S = 10.0
MAX_REMEMBERED = 1024
FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL

Socket = zmq.Socket[bytes]


class Quiet:
    """Says whether something should be said again: not within 10 s of the last time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._said: dict[object, float] = {}
        self._clock = clock

    def __call__(self, what: object) -> bool:
        now = self._clock()
        if now - self._said.get(what, -SAY_AGAIN_S) < SAY_AGAIN_S:
            return False
        if len(self._said) >= MAX_REMEMBERED:
            self._said.clear()
        self._said[what] = now
        return True


class Gatekeeper:
    """Answers ZAP in `contexts` until `close`; make it before anything is bound there."""

    def __init__(self, contexts: Sequence[zmq.Context[Any]], keyring: Keyring) -> None:
        self._keyring = keyring
        self._log = logs.get(part="keys")
        self._quiet = Quiet()
        self._asked: list[Socket] = []
        for context in contexts:
            socket: Socket = context.socket(zmq.ROUTER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(ADDRESS)
            self._asked.append(socket)
        self._monitors: dict[Socket, str] = {}
        self._new: deque[tuple[Socket, str]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="zap", daemon=True)
        self._thread.start()

    def watch(self, monitor: Socket, channel: str) -> None:
        """Log the failed handshakes of a bound socket; the monitor, of `FAILED`, is ours from now on."""
        self._new.append((monitor, channel))
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End the thread, after the sockets that it decides about are closed."""
        self._closed = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            poller = zmq.Poller()
            for source in (*self._asked, *self._monitors, self._wake):
                poller.register(source, zmq.POLLIN)
            ready = dict(poller.poll())
            if self._wake in ready:
                os.eventfd_read(self._wake)
            while self._new:
                monitor, channel = self._new.popleft()
                self._monitors[monitor] = channel
            for socket in self._asked:
                if socket in ready:
                    self._answer(socket)
            for monitor in [one for one in self._monitors if one in ready]:
                self._failed(monitor)
        for socket in (*self._asked, *self._monitors, *(monitor for monitor, _ in self._new)):
            socket.close()

    def _answer(self, socket: Socket) -> None:
        frames = socket.recv_multipart()
        start = frames.index(b"") + 1
        envelope, request = frames[:start], frames[start:]
        number, domain, address = request[1], request[2].decode(errors="replace"), request[3].decode(errors="replace")
        key = request[6] if request[5] == b"CURVE" and len(request) == 7 else b""
        code, who = self._keyring.admits(domain, key)
        if code != b"200" and self._quiet((domain, address, key)):
            self._log.warning("refused: the key is not known here", channel=domain, peer=address, key=key.hex()[:16])
        socket.send_multipart([*envelope, b"1.0", number, code, b"" if who else b"unknown key", who.encode(), b""])

    def _failed(self, monitor: Socket) -> None:
        event: Any = recv_monitor_message(monitor)
        if event["event"] == zmq.EVENT_MONITOR_STOPPED:
            del self._monitors[monitor]
            monitor.close()
        else:
            log_failed(self._log, self._quiet, self._monitors[monitor])


def log_failed(log: logs.Logger, quiet: Quiet, channel: str) -> None:
    """Say that a peer did not get through its handshake on the channel."""
    if quiet(channel):
        log.warning("refused: a peer speaks without keys, or takes us for another", channel=channel)


def user_of(frame: zmq.Frame) -> str:
    """Whose key the connection showed that the message came over, as the keyring calls it; empty without keys."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""
