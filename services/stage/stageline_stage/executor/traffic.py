"""The data sockets of an executor: what comes is queued, what was computed goes to the next hop.

Handing a message from thread to thread costs more than a short stage: two futex calls and two waits for the
interpreter's lock. So the computing thread uses the sockets itself, between two batches and while there is nothing to
compute. For the time that a long stage runs it lends them to the I/O thread, which goes on receiving.
Whoever uses the sockets holds the lock, which is also the memory barrier that libzmq asks for.

The computing thread waits in a plain `recv`: asking libzmq for events first, or polling, costs a system call more per
message. So what else it waits for, a change of the queue, comes as a message on the same socket (`Bell`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import zmq

from stageline.data import Activation, Cancel, DamagedError, decode_frames, encode_frames
from stageline.errors import RemoteProtocolError
from stageline.gatekeeper import user_of
from stageline.logs import Logger
from stageline.messages import DATA, Passage
from stageline.passing import Passing
from stageline.sockets import Socket, Sockets
from stageline_stage.executor.batches import Batch, Outgoing, Work, failure_of
from stageline_stage.executor.cancelled import Cancelled
from stageline_stage.executor.peers import Peers
from stageline_stage.executor.queue import WorkQueue, urgency_of

T = TypeVar("T")

PRUNE_S = 1.0
BURST = 64
"""Messages read in a row before anything else gets its turn."""

HELD = 8
"""Outcomes of short stages that are sent together: libzmq's thread is woken once for all of them."""

FLUSH_S = 2.0
"""How long results may take to leave once the executor stops."""

_NOBLOCK = int(zmq.NOBLOCK)
_RING = b"ring"


@dataclass(frozen=True)
class Host:
    """Where this executor is, for the failures that it reports."""

    node: str
    executor: str


class Bell:
    """Ends the wait of whoever receives from `data`; ring it from any thread."""

    def __init__(self, sockets: Sockets, data: Socket) -> None:
        self._lock = threading.Lock()
        self._push = sockets.within(DATA, data)

    def ring(self) -> None:
        """If rings that nobody has heard yet fill the socket, one more would tell nothing new."""
        with self._lock, contextlib.suppress(zmq.Again):
            self._push.send(_RING, _NOBLOCK)


class Traffic:
    """Made by the computing thread, which has the sockets until it lends them.

    `call_io` has the I/O thread call `serve`.
    """

    def __init__(
        self,
        host: Host,
        sockets: Sockets,
        data: Socket,
        *,
        queue: WorkQueue[Work],
        call_io: Callable[[], None],
        passing: Passing,
        log: Logger,
    ) -> None:
        self._keyring = sockets.keyring
        self._host, self._data, self._queue, self._log = host, data, queue, log
        self._passing, self._looks, self._waiting = passing, 0, False
        self._call_io = call_io
        self._peers = Peers(sockets, log)
        self._lock = threading.Lock()
        self._lock.acquire()
        self._lent = False
        self._held: list[Outgoing] = []
        self._descriptor = int(data.getsockopt(zmq.FD))
        self._prune_at = 0.0
        data.setsockopt(zmq.RCVTIMEO, round(PRUNE_S * 1000))
        self.cancelled = Cancelled()
        self.malformed = self.damaged = 0

    # --- the computing thread -------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Send what is held or waits and queue what has come, without waiting. True if there is more to do."""
        self._send_held()
        if self._peers.any_waiting:
            self._peers.flush(time.monotonic())
        for _ in range(BURST):
            if not self._receive(_NOBLOCK):
                self._looks += 1
                return self._peers.any_waiting
        return True

    def wait(self) -> None:
        """Send what is held, then wait until something has come or the bell rings; not for long, see `prune`."""
        self._send_held()
        waiting = list(self._peers.waiting()) if self._peers.any_waiting else []
        self._waiting = True
        if waiting:
            zmq.select([self._data], waiting, [], timeout=PRUNE_S)
            came = True
        else:
            came = self._receive()
        self._waiting = False
        if came:
            self.turn()
        now = time.monotonic()
        if now >= self._prune_at:
            self._peers.prune(now)
            self._prune_at = now + PRUNE_S

    def send(self, outgoing: Outgoing, header: Activation) -> None:
        """Send with the next `turn`, or when the sockets are lent; kept as long as the peer is not there.

        `header`: of the batch whose outcome it is, as it came.
        """
        self._held.append(outgoing)
        self._passing.went(header.gateway, outgoing.peer, header.batch, sum(map(len, outgoing.frames)))

    @property
    def full(self) -> bool:
        """Whether it is time for a `turn`, even if more waits to be computed."""
        return len(self._held) >= HELD

    def while_lent(self, run: Callable[[], T]) -> T:
        """What `run` gives; meanwhile the I/O thread has the sockets."""
        self._send_held()
        self._lent = True
        self._lock.release()
        self._call_io()
        try:
            return run()
        finally:
            self._lent = False
            self._lock.acquire()

    def close(self) -> None:
        """Send what is left, as far as the peers take it in time."""
        self._send_held()
        end = time.monotonic() + FLUSH_S
        while self._peers.any_waiting and time.monotonic() < end:
            zmq.select([], list(self._peers.waiting()), [], timeout=end - time.monotonic())
            self._peers.flush(time.monotonic())
        self._peers.close(round(FLUSH_S * 1000))

    # --- the I/O thread -------------------------------------------------------------------------------------

    def passage(self, now: float) -> Passage:
        """For the heartbeats: what passed through here. Who waits for messages looks at the socket all the time."""
        self._looks += self._waiting
        return self._passing.report(self._host.executor, self._looks, now)

    def lent_descriptor(self) -> int | None:
        """What to poll for input (edge-triggered: call `serve` before) while the sockets are lent."""
        return self._descriptor if self._lent else None

    def serve(self) -> bool:
        """`turn`, if the sockets are lent. True if there is more to do: call again soon."""
        if not self._lent or not self._lock.acquire(blocking=False):
            return False
        try:
            return self.turn()
        finally:
            self._lock.release()

    # --- both -----------------------------------------------------------------------------------------------

    def _send_held(self) -> None:
        if self._held:
            now = time.monotonic()
            for outgoing in self._held:
                self._peers.send(outgoing.address, outgoing.frames, now)
            self._held.clear()

    def _receive(self, flags: int = 0) -> bool:
        """Take one message in; False if there is none."""
        try:
            frame: Any = self._data.recv(flags, copy=False)
        except zmq.Again:
            return False
        frames = [frame]
        while frame.more:
            frame = self._data.recv(_NOBLOCK, copy=False)
            frames.append(frame)
        if self._keyring is not None and self._keyring.revoked and user_of(frames[-1]) in self._keyring.revoked:
            self._refuse("the sender's key was revoked")
            return True
        try:
            header, buffers = decode_frames(frames)
        except DamagedError as error:
            self._damaged(error)
            return True
        except RemoteProtocolError as error:
            if bytes(frames[0]) != _RING:
                self._refuse(error.message)
            return True
        if isinstance(header, Activation) and header.hop < len(header.path):
            self._accept(header, buffers)
        elif isinstance(header, Cancel):
            self._cancel(header)
        else:
            self._refuse("not a batch with a stage to run")
        return True

    def _accept(self, header: Activation, buffers: Sequence[Any]) -> None:
        batch = Batch(header, buffers, time.monotonic())
        sender = header.path[header.hop - 1].executor if header.hop else header.gateway
        self._passing.came(header.gateway, sender, header.batch)
        if header.sent_us:
            nbytes = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
            self._passing.took(sender, header.sent_us, batch.arrived_s, nbytes)
        urgency = urgency_of(header.priority, header.deadline_ns)
        if not self._queue.put(urgency, batch, gateway=header.gateway, tell=False):
            self._fail(header, "not_loaded", "the worker is stopping")

    def _cancel(self, header: Cancel) -> None:
        """Remember it, and have it follow the batches to where they may be by now."""
        for batch in header.batches:
            self.cancelled.add(header.gateway, batch)
        if header.hop + 1 < len(header.path):
            there = header.path[header.hop + 1]
            further = msgspec.structs.replace(header, hop=header.hop + 1)
            frames = encode_frames(further, checked=there.checked)
            self._held.append(Outgoing(there.address, frames, there.executor))

    def _fail(self, header: Activation, code: str, message: str) -> None:
        failure = failure_of(header, code, message, self._host.node, self._host.executor, retryable=True)
        self.send(failure, header)

    def _damaged(self, error: DamagedError) -> None:
        """Tell the gateway that the header names, if it can be read; else it finds out by itself."""
        header = error.header
        sender = ""
        if isinstance(header, Activation) and 0 <= header.hop < len(header.path):
            sender = header.path[header.hop - 1].node if header.hop else header.gateway
            self._fail(header, "damaged", error.message)
        self.damaged += 1
        self._log.warning("damaged data message dropped", sender=sender[:80], dropped=self.damaged)

    def _refuse(self, reason: str) -> None:
        self.malformed += 1
        self._log.warning("malformed data message dropped", reason=reason, dropped=self.malformed)
