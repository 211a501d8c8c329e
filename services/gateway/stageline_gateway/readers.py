"""ZeroMQ sockets in an asyncio loop: plain sockets, and their file descriptor watched by the loop.

The descriptor is edge-triggered: it becomes readable when something changed, not while something is there. So whoever
is called back reads or writes until the socket says `Again`, and looks once more after each send on a socket that is
also read, because a send may swallow the edge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq

from stageline.sockets import Socket

MESSAGES_PER_TURN = 64
"""After so many the loop gets a turn, so that one busy socket does not keep all others waiting."""


class Reader:
    """Calls `receive` with the frames of every message of `socket`, from the loop's thread, until `close`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, socket: Socket, receive: Callable[[list[Any]], None], *, copy: bool
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._receive = receive
        self._copy = copy
        self._closed = False
        self._fd = int(socket.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self.drain)
        loop.call_soon(self.drain)

    def drain(self) -> None:
        """Read what is there. Call it after a send on the same socket, too."""
        for _ in range(MESSAGES_PER_TURN):
            if self._closed:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=self._copy)
            except zmq.Again:
                return
            self._receive(frames)
        self._loop.call_soon(self.drain)

    def close(self) -> None:
        """Stop watching; the socket stays open."""
        self._closed = True
        self._loop.remove_reader(self._fd)
