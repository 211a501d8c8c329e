"""What one client says: the hello first, then requests, each of which the handler gets or an error answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stageline.errors import ForbiddenError, InvalidInputError, RejectedError, RemoteProtocolError, StagelineError
from stageline.framing import Frame
from stageline.protocol import (
    VERSIONS,
    Cancel,
    ClientHello,
    Describe,
    Infer,
    Ping,
    Pong,
    ToClient,
    decode_to_server,
    id_asked,
    split_body,
)
from stageline_gateway.charges import Charges
from stageline_gateway.port import Port, error_message

HELLO_FIRST = "the first frame, and only the first, must be ClientHello"


class Conversation:
    """Of connection `number`; `on_greeted` is called once the client is let in, `send` takes what it is told."""

    def __init__(
        self, port: Port, number: int, send: Callable[[ToClient], None], on_greeted: Callable[[], None]
    ) -> None:
        self._port = port
        self._number = number
        self._send = send
        self._on_greeted = on_greeted
        self._user = ""
        self.greeted = False
        self.charges: Charges | None = None
        self._actions: dict[type, Callable[[Any, Frame], None]] = {
            ClientHello: self._hello,
            Infer: self._infer,
            Cancel: lambda message, frame: port.handler.cancel(number, message.id),
            Describe: self._describe,
            Ping: lambda message, frame: send(Pong(message.sequence)),
        }

    def take(self, frame: Frame) -> None:
        """Act on a frame. Raises `RemoteProtocolError` or `AuthenticationError`, with which the connection ends."""
        try:
            message = decode_to_server(frame.header)
        except RemoteProtocolError as error:
            asked = id_asked(frame.header) if self.greeted else None
            if asked is None:
                raise
            self._refuse(asked, InvalidInputError(error.message))  # the frame's end is known all the same
            return
        if isinstance(message, ClientHello) == self.greeted:
            raise RemoteProtocolError(HELLO_FIRST)
        body = len(frame.body) or frame.skipped
        if body and not isinstance(message, Infer):
            raise RemoteProtocolError(f"{type(message).__name__} has no body, got {body} bytes")
        self._actions[type(message)](message, frame)

    def _hello(self, message: ClientHello, frame: Frame) -> None:
        if message.version not in VERSIONS:
            known = ", ".join(map(str, VERSIONS))
            raise RemoteProtocolError(f"protocol version {message.version} is not spoken here; use one of {known}")
        if self._port.access is not None:
            self.charges = Charges(self._port.access.admit(message.token))
        self._user = message.user
        self.greeted = True
        self._on_greeted()

    def _infer(self, message: Infer, frame: Frame) -> None:
        try:
            message = self._of_user(message)
            self._check_size(frame.skipped)
            buffers = split_body(message.inputs, frame.body)
        except (InvalidInputError, ForbiddenError, RejectedError) as error:
            self._refuse(message.id, error)
            return
        self._port.handler.infer(self._number, message, buffers)

    def _describe(self, message: Describe, frame: Frame) -> None:
        try:
            if self.charges is not None:
                self.charges.look(self._port.loop.time())
        except RejectedError as error:
            self._refuse(message.id, error)
            return
        self._port.handler.describe(self._number, message)

    def _of_user(self, message: Infer) -> Infer:
        if self.charges is not None:
            return self.charges.begin(message, self._user, self._port.loop.time())
        if self._user and not message.user:
            return msgspec.structs.replace(message, user=self._user)
        return message

    def _check_size(self, skipped: int) -> None:
        if skipped:
            limit = self._port.hello.limits.max_request_bytes
            raise InvalidInputError(
                f"the request has {skipped} bytes, this gateway takes {limit}: send a smaller batch"
            )

    def _refuse(self, request_id: int, error: StagelineError) -> None:
        if self.charges is not None and isinstance(error, RejectedError):
            self._port.handler.limited(str(self.charges.allowance))
        self._send(error_message(request_id, error))
