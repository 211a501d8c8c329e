"""The gateway's probe socket: workers measure their links to it."""

from __future__ import annotations

import asyncio
from typing import Any

from stageline import probe
from stageline.logs import Logger
from stageline.messages import PROBE
from stageline.sockets import Sockets
from stageline_gateway.readers import Reader


class ProbePort:
    """Loop thread only. Answers whoever probes `endpoint`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sockets: Sockets, host: str, log: Logger) -> None:
        self._loop, self._log = loop, log
        self._socket, self.endpoint = sockets.bind_data(host, PROBE)
        self._reader = Reader(loop, self._socket, self._received, copy=False)

    def poll(self) -> None:
        """Look at the socket, whatever its descriptor said."""
        self._reader.drain()

    def close(self) -> None:
        """Stop; the socket is closed by `Sockets`."""
        self._reader.close()

    def _received(self, frames: list[Any]) -> None:
        probe.answer(self._socket, [frame.buffer for frame in frames], self._log)
        self._loop.call_soon(self._reader.drain)
