"""The agent's connection to the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import zmq

from stageline.coordinators import Coordinators
from stageline.errors import RemoteProtocolError
from stageline.logs import Logger
from stageline.messages import CONTROL, FromCoordinator, control_identity
from stageline.monitors import refusal
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, Message, encode


class ControlLink:
    """A DEALER that can be made anew, so that nothing stale is queued for a coordinator that was away.

    `failed` is told why the last connection was not made (empty: nothing is known), before we connect again.
    """

    def __init__(
        self,
        sockets: Sockets,
        coordinators: Coordinators,
        name: str,
        incarnation: str,
        log: Logger,
        failed: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._sockets, self._coordinators, self._failed = sockets, coordinators, failed
        self._identity = control_identity("agent", name, incarnation).encode()
        self._log = log
        self._refused = ""
        self._old: Socket | None = None
        self._decode: Decoder[FromCoordinator] = Decoder(FromCoordinator)
        self.socket: Socket = self._connect()

    def reconnect(self) -> None:
        """Drop the connection and everything queued on it, and connect to the current coordinator."""
        why = refusal(self.socket) if self._sockets.keyring is not None else ""
        if why and why != self._refused:
            self._log.error("no connection to the coordinator", coordinator=self._address, reason=why)
        self._refused = why
        self._failed(why)
        self._drop_old()
        self._sockets.release(self.socket)
        self.socket = self._connect()

    def renew(self) -> None:
        """Connect with the key that we show now; the connection of before goes once something comes over this one.

        So the coordinator, for which the newer one of a name counts, sees no connection break.
        """
        self._drop_old()
        self._old, self.socket = self.socket, self._connect()

    def send(self, message: Message) -> None:
        """Queue a message; dropped when the queue is full, as it is only while nobody reads."""
        try:
            self.socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self._log.warning("no room to send to the coordinator", message=type(message).__name__)

    def received(self) -> Iterator[FromCoordinator]:
        """All messages that have come; malformed ones are logged and skipped."""
        if self._old is not None:
            yield from self._read(self._old)
        for message in self._read(self.socket):
            self._drop_old()
            yield message

    def _read(self, socket: Socket) -> Iterator[FromCoordinator]:
        while not socket.closed:
            try:
                data = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield self._decode(data)
            except RemoteProtocolError as error:
                self._log.warning("malformed message from the coordinator", reason=error.message)

    def _drop_old(self) -> None:
        if self._old is not None:
            self._sockets.release(self._old)
            self._old = None

    def _connect(self) -> Socket:
        self._address = self._coordinators.current
        return self._sockets.connect(CONTROL, self._address, identity=self._identity)
