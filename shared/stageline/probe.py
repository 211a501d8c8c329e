"""The answering end of a link measurement: what workers and gateways say to a `Probe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

from stageline.errors import RemoteProtocolError
from stageline.logs import Logger
from stageline.messages import MAX_BALLAST_BYTES, PROBE, Probe, ProbeReply
from stageline.sockets import Socket
from stageline.wire import Decoder, encode

BALLAST = memoryview(bytes(MAX_BALLAST_BYTES))
"""Never written to, so the kernel backs all of it with one page of zeros."""

_decode: Decoder[Probe] = Decoder(PROBE.to_binder)


def reply(frames: Sequence[Any]) -> list[Any]:
    """The frames that answer a message (anything with the buffer protocol); the first is the sender's identity.

    Raises `RemoteProtocolError` for a message that is no probe, or wants more than `MAX_BALLAST_BYTES`.
    """
    if not 2 <= len(frames) <= 3:
        raise RemoteProtocolError(f"a probe has one or two frames, not {len(frames) - 1}")
    probe = _decode(memoryview(frames[1]))
    if not 0 <= probe.want <= MAX_BALLAST_BYTES:
        raise RemoteProtocolError(f"a probe may want at most {MAX_BALLAST_BYTES} bytes, not {probe.want}")
    return [frames[0], encode(ProbeReply(id=probe.id)), BALLAST[: probe.want]]


def answer(socket: Socket, frames: Sequence[Any], log: Logger) -> None:
    """Answer on the socket that `frames` came from; one who sends nonsense, or has gone, gets no answer."""
    try:
        socket.send_multipart(reply(frames), zmq.NOBLOCK, copy=False)
    except RemoteProtocolError as error:
        log.warning("malformed probe dropped", reason=error.message)
    except zmq.ZMQError as error:
        log.debug("probe not answered", reason=error.strerror)
