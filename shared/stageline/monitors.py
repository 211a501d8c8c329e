"""What libzmq tells of connections: who came and went, which stands, and which was refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Literal

import zmq
from zmq.utils.monitor import parse_monitor_message, recv_monitor_message

from stageline.gatekeeper import FAILED

Socket = zmq.Socket[bytes]

UNKNOWN_KEY = "it does not know our key"
STRANGER = "it is not the one whose key we have, or has none"
_LINK_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
_WATCHED = _LINK_EVENTS | FAILED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_LINKS = (zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED, zmq.EVENT_CONNECT_RETRIED)
_monitors: weakref.WeakKeyDictionary[Socket, Socket] = weakref.WeakKeyDictionary()


def close(socket: Socket) -> None:
    """Close a socket, and its monitor if it has one."""
    if socket.closed:
        return
    monitor = _monitors.pop(socket, None)
    socket.disable_monitor()
    socket.close()
    if monitor is not None and not monitor.closed:  # pyzmq leaves it to the garbage collector; term() waits for it
        monitor.close()


def peer_monitor(socket: Socket) -> Socket:
    """A socket that is readable when a peer of the bound `socket` comes or goes, see `read_monitor`; closed with it."""
    monitor: Socket = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | FAILED)
    _monitors[socket] = monitor
    return monitor


def read_monitor(monitor: Socket) -> Iterator[tuple[bool | None, int]]:
    """(whether a peer came, its connection's file descriptor) of all that happened; a closed one's number is reused.

    None instead: a peer was refused before it said anything; the number then means nothing.
    """
    while monitor.poll(0):
        event: Any = recv_monitor_message(monitor, zmq.NOBLOCK)
        failed = bool(event["event"] & FAILED)
        yield None if failed else event["event"] == zmq.EVENT_ACCEPTED, int(event["value"])


def watch(socket: Socket, *, tried: bool = False) -> None:
    """Give a socket that will be connected a `link_monitor`; `tried`: for `progress`, which wants more of it."""
    _monitors[socket] = socket.get_monitor_socket(zmq.EVENT_CONNECTED | _WATCHED if tried else _WATCHED)


def refusal(socket: Socket) -> str:
    """Why the connection of a socket that is watched was not made, by its monitor; empty: nothing is known."""
    why = ""
    monitor = _monitors[socket]
    while monitor.poll(0):
        event: Any = recv_monitor_message(monitor, zmq.NOBLOCK)
        if event["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            why = UNKNOWN_KEY
        elif event["event"] & FAILED:
            why = STRANGER
        elif event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            why = ""
    return why


def progress(socket: Socket) -> Iterator[Literal["connected", "through"]]:
    """How far a socket that is tried has come since the last look: somebody took it; it was whom we meant."""
    monitor = _monitors[socket]
    while monitor.poll(0):
        event: Any = recv_monitor_message(monitor, zmq.NOBLOCK)
        if event["event"] == zmq.EVENT_CONNECTED:
            yield "connected"
        elif event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            yield "through"


def link_monitor(socket: Socket) -> Socket:
    """A socket that gives a message for `link_event` when the connection of a `watched` one changes; closed with it."""
    return _monitors[socket]


def link_event(frames: list[bytes]) -> bool | None:
    """Whether the connection stands now, by a message of a `link_monitor`; None for one that does not say."""
    event: Any = parse_monitor_message(frames)["event"]
    return None if event not in _LINKS else bool(event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
