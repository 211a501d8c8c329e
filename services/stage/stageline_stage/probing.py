"""The agent's thread for link measurements: it answers those of others, and does those that are asked of it."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any

import zmq

from stageline import probe
from stageline.errors import ConfigError, ConnectionLostError, RemoteProtocolError, StagelineError
from stageline.logs import Logger
from stageline.messages import PROBE, LinkTime, Probe, Probed, ProbeReply, ProbeRequest
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, encode
from stageline_stage.probes import Course, Exchange, course

SILENT_S = 5.0
"""Without an answer for so long the link counts as broken."""

BUDGET_S = 1.0
"""No request may take longer, whatever it says; times `probes.SLOWEST` where the link is slow."""


class Closing(Exception):  # noqa: N818  not an error
    """The agent ends."""


class Prober:
    """`probe` and `close` may be called from the agent's thread; `results` gives what came of it."""

    def __init__(self, sockets: Sockets, host: str, host_key: str, log: Logger) -> None:
        self._sockets, self._host_key, self._log = sockets, host_key, log
        self._server, self.endpoint = sockets.bind_data(host, PROBE)
        self._decode: Decoder[ProbeReply] = Decoder(PROBE.to_connector)
        self._requests: deque[ProbeRequest] = deque()
        self._results: deque[Probed] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closed = False
        self._last_id = 0
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable when there are results."""
        return self._event

    def results(self) -> list[Probed]:
        """What was measured, oldest first."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return []
        return [self._results.popleft() for _ in range(len(self._results))]

    def probe(self, request: ProbeRequest) -> None:
        """Measure a link, after what was asked before."""
        self._requests.append(request)
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        os.close(self._event)

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                self._serve(None)
                while self._requests:
                    self._results.append(self._measure(self._requests.popleft()))
                    os.eventfd_write(self._event, 1)
        except Closing:
            self._sockets.release(self._server)

    def _serve(self, other: Socket | None, flags: int = zmq.POLLIN, until: float | None = None) -> bool:
        """Answer others until `other` is ready, or without one until there are requests. False: `until` has come."""
        poller = zmq.Poller()
        poller.register(self._server, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        if other is not None:
            poller.register(other, flags)
        while True:
            left_ms = None if until is None else max(0, round((until - time.monotonic()) * 1000))
            ready = dict(poller.poll(left_ms))
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if self._closed:
                raise Closing
            while self._server in ready and (frames := _received(self._server)):
                probe.answer(self._server, frames, self._log)
            if other is None and self._requests:
                return True
            if other in ready:
                return True
            if not ready:
                return False

    def _measure(self, request: ProbeRequest) -> Probed:
        try:
            socket = self._sockets.connect(PROBE, request.endpoint.address_from(self._host_key))
        except ConfigError as error:
            return Probed(peer=request.peer, error=error.message)
        try:
            return Probed(peer=request.peer, link=self._follow(course(min(request.budget_s, BUDGET_S)), socket))
        except StagelineError as error:
            return Probed(peer=request.peer, error=error.message)
        finally:
            self._sockets.release(socket)

    def _follow(self, steps: Course, socket: Socket) -> LinkTime:
        exchange = next(steps)
        while True:
            seconds = self._exchange(exchange, socket)
            try:
                exchange = steps.send(seconds)
            except StopIteration as end:
                link: LinkTime = end.value
                return link

    def _exchange(self, exchange: Exchange, socket: Socket) -> float:
        """The seconds that it took. Raises `ConnectionLostError` for silence, `RemoteProtocolError` for nonsense."""
        self._last_id += 1
        message = encode(Probe(id=self._last_id, want=exchange.want_bytes))
        if not self._serve(socket, zmq.POLLOUT, time.monotonic() + SILENT_S):
            raise ConnectionLostError(f"no connection within {SILENT_S:g} s")
        begun = time.monotonic()
        socket.send_multipart([message, probe.BALLAST[: exchange.send_bytes]], zmq.NOBLOCK, copy=False)
        if not self._serve(socket, zmq.POLLIN, begun + SILENT_S):
            raise ConnectionLostError(f"no answer within {SILENT_S:g} s")
        header, ballast = (*_received(socket), b"", b"")[:2]
        seconds = time.monotonic() - begun
        if self._decode(memoryview(header)).id != self._last_id or memoryview(ballast).nbytes != exchange.want_bytes:
            raise RemoteProtocolError("the answer to a probe is not what was asked for")
        return seconds


def _received(socket: Socket) -> list[Any]:
    try:
        return [frame.buffer for frame in socket.recv_multipart(zmq.NOBLOCK, copy=False)]
    except zmq.Again:
        return []
