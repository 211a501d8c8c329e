"""The gateway's data sockets: one PULL for results, one PUSH for each executor that a path may begin at.

Every executor of the plan has another connection, which carries nothing but ZMTP's heartbeats: libzmq
answers them without the executor's help as long as its process runs, so they show who has died or is frozen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import zmq

from stageline.data import Activation, Buffer, Cancel, DamagedError, Failure, decode_frames, encode_frames
from stageline.errors import ConfigError, RemoteProtocolError
from stageline.gatekeeper import user_of
from stageline.logs import Logger
from stageline.messages import DATA
from stageline.monitors import link_event, link_monitor
from stageline.plan import Endpoint
from stageline.sockets import Socket, Sockets
from stageline_gateway.readers import Reader

Receive = Callable[[Activation | Failure, Sequence[Buffer], bool], None]
"""Told the header, the buffers, and whether the message was damaged."""
LinkNews = Callable[[str, bool], None]
"""Takes an address, and whether the connection to it stands."""


class DataPlane:
    """Loop thread only. `receive` is called with each well-formed message; others are logged and dropped.

    `bound`: what `Sockets.bind_data` gave.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sockets,
        bound: tuple[Socket, Endpoint],
        receive: Receive,
        link_changed: LinkNews,
        log: Logger,
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._receive = receive
        self._link_changed = link_changed
        self._log = log
        self._senders: dict[str, _Sender] = {}
        self._watches: dict[str, _Watch] = {}
        pull, self.endpoint = bound
        self._reader = Reader(loop, pull, self._received, copy=False)
        self.malformed = 0

    def send(self, address: str, header: Activation | Cancel, buffers: Sequence[Buffer] = ()) -> None:
        """Push a batch, or the news that nobody waits for it, to `address`; it waits while that is not connected."""
        sender = self._sender(address)
        if sender is not None:
            sender.send(encode_frames(header, buffers, checked=header.path[0].checked))

    def keep_only(self, entrances: set[str], watched: set[str]) -> None:
        """Connect to those, and close the sockets to all others with whatever waits for them."""
        for address in self._senders.keys() - entrances:
            self._senders.pop(address).close()
        for address in self._watches.keys() - watched:
            self._watches.pop(address).close()
        for address in entrances:
            self._sender(address)
        for address in watched - self._watches.keys():
            socket = self._connect(address, watched=True)
            if socket is not None:
                news = partial(self._link_changed, address)
                self._watches[address] = _Watch(self._loop, self._sockets, socket, news)

    def poll(self) -> None:
        """Look at every socket, whatever the descriptors said."""
        self._reader.drain()
        for sender in list(self._senders.values()):
            sender.flush()
        for watch in list(self._watches.values()):
            watch.poll()

    def close(self) -> None:
        """Stop; the sockets are closed by `Sockets`."""
        self._reader.close()
        for sender in self._senders.values():
            sender.close()
        for watch in self._watches.values():
            watch.close()
        self._senders.clear()
        self._watches.clear()

    def _sender(self, address: str) -> _Sender | None:
        if address not in self._senders:
            socket = self._connect(address)
            if socket is None:
                return None
            self._senders[address] = _Sender(self._loop, self._sockets, socket)
        return self._senders[address]

    def _connect(self, address: str, *, watched: bool = False) -> Socket | None:
        try:
            return self._sockets.connect(DATA, address, watched=watched)
        except ConfigError as error:
            self._log.error("bad executor address", address=address, error=error.message)
            return None

    def _received(self, frames: list[Any]) -> None:
        keyring = self._sockets.keyring
        if keyring is not None and keyring.revoked and user_of(frames[-1]) in keyring.revoked:
            self.malformed += 1
            self._log.warning("data message dropped", error="the sender's key was revoked")
            return
        try:
            header, buffers = decode_frames([frame.buffer for frame in frames])
        except DamagedError as error:
            sender = error.header.path[-1].node if isinstance(error.header, Activation) and error.header.path else ""
            self._log.warning("damaged data message dropped", sender=sender[:80], error=error.message)
            if error.header is not None and not isinstance(error.header, Cancel):
                self._receive(error.header, (), True)
            return
        except RemoteProtocolError as error:
            self.malformed += 1
            self._log.warning("malformed data message dropped", error=error.message)
            return
        if isinstance(header, Cancel):
            self.malformed += 1
            self._log.warning("malformed data message dropped", error="a cancellation, which is for executors")
            return
        self._receive(header, buffers, False)


class _Sender:
    """A PUSH socket and what waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sockets: Sockets, socket: Socket) -> None:
        self._loop = loop
        self._sockets = sockets
        self._socket = socket
        self._waiting: deque[list[Buffer]] = deque()
        self._fd = int(socket.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self.flush)

    def send(self, frames: list[Buffer]) -> None:
        self._waiting.append(frames)
        self.flush()

    def flush(self) -> None:
        if not self._waiting:
            self._socket.getsockopt(zmq.EVENTS)  # takes note of the change, so that the descriptor goes quiet
        while self._waiting:
            try:
                self._socket.send_multipart(self._waiting[0], zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._waiting.popleft()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        self._sockets.release(self._socket)
        self._waiting.clear()


class _Watch:
    """A connection on which only heartbeats pass; `news` is told when it breaks, or is made again."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sockets: Sockets, socket: Socket, news: Callable[[bool], None]
    ) -> None:
        self._sockets, self._socket = sockets, socket
        self._news, self._up = news, True
        self._monitor = Reader(loop, link_monitor(socket), self._happened, copy=True)

    def poll(self) -> None:
        """Look at the monitor, whatever its descriptor said."""
        self._monitor.drain()

    def _happened(self, frames: list[bytes]) -> None:
        up = link_event(frames)
        if up is not None and up != self._up:
            self._up = up
            self._news(up)

    def close(self) -> None:
        self._monitor.close()
        self._sockets.release(self._socket)
