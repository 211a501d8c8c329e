"""The I/O thread: it owns every socket of the executor, so that heartbeats and transfers go on beside computing."""

from __future__ import annotations

import os
import threading
import time

import zmq

from stageline.data import Activation, decode_frames
from stageline.errors import RemoteProtocolError
from stageline.logs import Logger
from stageline.messages import Beat, ExecutorHello, FromAgent, Load, Measure, Stop, Unload
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, Message, encode
from stageline_stage.executor.compute import Batch, Computer, Outbox, Outgoing, Work, failure_of
from stageline_stage.executor.device import Runner
from stageline_stage.executor.measure import Measurement
from stageline_stage.executor.peers import Peers
from stageline_stage.executor.queue import Urgency, WorkQueue
from stageline_stage.executor.stages import Loader

BEAT_S = 0.1
PRUNE_S = 1.0
BURST = 64
"""Batches read in a row before other sockets get their turn."""

FLUSH_S = 2.0
"""How long results may take to leave once the executor stops."""

EXIT_IO_FAILED = 70


class IoThread(threading.Thread):
    """Runs until `finish`; ends the whole process if it fails, as an executor without I/O is no use."""

    def __init__(
        self,
        *,
        hello: ExecutorHello,
        node: str,
        sockets: Sockets,
        data: Socket,
        local: Socket,
        queue: WorkQueue[Work],
        computer: Computer,
        loader: Loader,
        runner: Runner,
        outbox: Outbox,
        log: Logger,
    ) -> None:
        super().__init__(name="io", daemon=True)
        self._hello, self._node = hello, node
        self._data, self._local = data, local
        self._queue, self._computer, self._loader, self._runner = queue, computer, loader, runner
        self._outbox, self._log = outbox, log
        self._peers = Peers(sockets, log)
        self._decode: Decoder[FromAgent] = Decoder(FromAgent)
        self._stop_at: float | None = None
        self.malformed = 0

    def run(self) -> None:
        """The thread's main loop."""
        try:
            self._say(self._hello)
            self._loop()
            self._peers.close(round(FLUSH_S * 1000))
        except BaseException:
            self._log.exception("the I/O thread failed")
            os._exit(EXIT_IO_FAILED)

    def finish(self) -> None:
        """Send what is left, then end; from another thread."""
        self._stop_at = time.monotonic() + FLUSH_S
        self._outbox.wake()

    def _loop(self) -> None:
        beat_at = prune_at = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= beat_at:
                self._beat(now)
                beat_at = now + BEAT_S
            if now >= prune_at:
                self._peers.prune(now)
                prune_at = now + PRUNE_S
            self._poll(max(0.0, beat_at - now))
            if self._stop_at is not None and (time.monotonic() >= self._stop_at or not self._unsent()):
                return

    def _unsent(self) -> bool:
        return bool(list(self._peers.waiting())) or bool(self._outbox)

    def _poll(self, timeout_s: float) -> None:
        poller = zmq.Poller()
        for readable in (self._data, self._local, self._outbox.fileno()):
            poller.register(readable, zmq.POLLIN)
        for socket in self._peers.waiting():
            poller.register(socket, zmq.POLLOUT)
        ready = dict(poller.poll(round(timeout_s * 1000)))
        if self._local in ready:
            self._read_local()
        if self._data in ready:
            self._read_data()
        now = time.monotonic()
        for item in self._outbox.take():
            if isinstance(item, Outgoing):
                self._peers.send(item.address, item.frames, now)
            else:
                self._say(item)
        self._peers.flush(now)

    def _say(self, message: Message) -> None:
        self._local.send(encode(message), zmq.NOBLOCK)

    def _beat(self, now: float) -> None:
        activity = self._computer.activity
        progress = activity.progress(self._hello.executor, self._queue.depth, now)
        self._say(Beat(progress=progress, computing=activity.computing))

    def _read_local(self) -> None:
        while True:
            try:
                message = self._decode(self._local.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            if isinstance(message, Load):
                self._loader.load(message)
            elif isinstance(message, Unload):
                self._loader.unload(message.stage)
            elif isinstance(message, Measure):
                self._queue.put(Urgency.of_measurement(), Measurement(message, self._runner))
            elif isinstance(message, Stop):
                self._queue.close()

    def _read_data(self) -> None:
        for _ in range(BURST):
            try:
                frames = self._data.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                header, buffers = decode_frames(frames)
            except RemoteProtocolError as error:
                self._refuse(error.message)
                continue
            if isinstance(header, Activation) and not header.finished:
                self._accept(Batch(header, buffers, time.monotonic()))
            else:
                self._refuse("not a batch with a stage to run")

    def _accept(self, batch: Batch) -> None:
        header = batch.header
        if self._queue.put(Urgency.of_batch(header.priority, header.deadline_ns), batch):
            return
        executor = self._hello.executor
        self._outbox.post(
            failure_of(header, "not_loaded", "the worker is stopping", self._node, executor, retryable=True)
        )

    def _refuse(self, reason: str) -> None:
        self.malformed += 1
        self._log.warning("malformed data message dropped", reason=reason, dropped=self.malformed)
