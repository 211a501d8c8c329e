"""The I/O thread: it talks with the agent, and receives batches while the main thread computes for long."""

from __future__ import annotations

import os
import threading
import time

import zmq

from stageline.keyring import Keyring
from stageline.logs import Logger
from stageline.messages import Admit, Admitted, Beat, ExecutorHello, FromAgent, Load, Measure, Stop, Unload
from stageline.sockets import Socket
from stageline.wire import Decoder, Message, encode
from stageline_stage.executor.batches import Work
from stageline_stage.executor.compute import Computer
from stageline_stage.executor.device import Runner
from stageline_stage.executor.measure import Measurement
from stageline_stage.executor.outbox import Outbox
from stageline_stage.executor.queue import OF_MEASUREMENT, WorkQueue
from stageline_stage.executor.stages import Loader
from stageline_stage.executor.traffic import Traffic

BEAT_S = 0.1
IMPATIENT_S = 0.005
"""How soon to look again at a peer that does not take what waits for it."""

FLUSH_S = 2.0
"""How long answers to the agent may take to leave once the executor stops."""

EXIT_IO_FAILED = 70


class IoThread(threading.Thread):
    """Runs until `finish`; ends the whole process if it fails, as an executor without I/O is no use."""

    def __init__(
        self,
        *,
        hello: ExecutorHello,
        local: Socket,
        queue: WorkQueue[Work],
        computer: Computer,
        loader: Loader,
        runner: Runner,
        traffic: Traffic,
        outbox: Outbox,
        keyring: Keyring | None,
        log: Logger,
    ) -> None:
        super().__init__(name="io", daemon=True)
        self._hello, self._local, self._keyring = hello, local, keyring
        self._queue, self._computer, self._loader, self._runner = queue, computer, loader, runner
        self._traffic, self._outbox, self._log = traffic, outbox, log
        self._decode: Decoder[FromAgent] = Decoder(FromAgent)
        self._stop_at: float | None = None

    def run(self) -> None:
        """The thread's main loop."""
        try:
            self._say(self._hello)
            self._loop()
        except BaseException:
            self._log.exception("the I/O thread failed")
            os._exit(EXIT_IO_FAILED)

    def finish(self) -> None:
        """Send what is left, then end; from another thread."""
        self._stop_at = time.monotonic() + FLUSH_S
        self._outbox.event.set()

    def _loop(self) -> None:
        beat_at = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= beat_at:
                self._beat(now)
                beat_at = now + BEAT_S
            self._poll(max(0.0, beat_at - now))
            if self._stop_at is not None and (time.monotonic() >= self._stop_at or not self._outbox):
                return

    def _poll(self, timeout_s: float) -> None:
        poller = zmq.Poller()
        poller.register(self._local, zmq.POLLIN)
        poller.register(self._outbox.event.fileno(), zmq.POLLIN)
        data = self._traffic.lent_descriptor()
        if data is not None:
            poller.register(data, zmq.POLLIN)
            if self._traffic.serve():
                timeout_s = min(timeout_s, IMPATIENT_S)
        ready = dict(poller.poll(round(timeout_s * 1000)))
        if self._local in ready:
            self._read_local()
        for item in self._outbox.take():
            self._say(item)

    def _say(self, message: Message) -> None:
        self._local.send(encode(message), zmq.NOBLOCK)

    def _beat(self, now: float) -> None:
        activity = self._computer.activity
        progress = activity.progress(self._hello.executor, self._queue.depth, now)
        self._say(
            Beat(
                progress=progress,
                computing=activity.computing,
                passage=self._traffic.passage(now),
                io_s=time.thread_time(),
            )
        )

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
                self._queue.put(OF_MEASUREMENT, Measurement(message, self._runner))
            elif isinstance(message, Admit):
                if self._keyring is not None:
                    self._keyring.admit(message)
                self._say(Admitted(version=message.version))
            elif isinstance(message, Stop):
                self._queue.close()
