"""The blocking client's I/O thread: it connects, writes, reads, tries again, and ends what runs out of time."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from stageline.client.channel import Channel
from stageline.client.core import ClientCore
from stageline.client.retrying import Dialer, Retry
from stageline.client.security import Security
from stageline.client.session import Call, Ended, Session, closed_error
from stageline.errors import ConnectionLostError, StagelineError
from stageline.protocol import ServerHello


class Link:
    """Connects on creation, trying each address once. `ask` may be called from any thread."""

    def __init__(
        self, addresses: Sequence[str], make_core: Callable[[], ClientCore], session: Session, retry: Retry,
        connect_timeout_s: float, security: Security,
    ) -> None:  # fmt: skip
        for address in addresses:
            security.context(address)
        self._security = security
        self._make_core = make_core
        self._session = session
        self._dialer = Dialer(addresses, retry, random.random)
        self._timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._futures: dict[int, Future[Any]] = {}
        self._channel: Channel | None = None
        self._hello: ServerHello | None = None
        self._closing = False
        self._first: Future[None] = Future()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._core: ClientCore
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._writing = False
        self._thread = threading.Thread(target=self._run, name="stageline-client", daemon=True)
        self._thread.start()
        try:
            self._first.result()
        except BaseException:
            self.close()
            raise

    @property
    def hello(self) -> ServerHello:
        """What the gateway said first; the last one, if there were several."""
        if self._hello is None:
            raise ConnectionLostError("no gateway has greeted yet")
        return self._hello

    def ask(self, build: Callable[[float], Call]) -> Future[Any]:
        """Send the call that `build` makes; the future gets its outcome. Raises what `build` raises."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closing:
                raise closed_error()
            now = time.monotonic()
            number = build(now).number
            self._futures[number] = future
            self._write_due(now)
        future.add_done_callback(lambda done: self._cancel(number) if done.cancelled() else None)
        self._wake()
        return future

    def close(self) -> None:
        """Close, and fail what is not answered."""
        self._closing = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _cancel(self, number: int) -> None:
        with self._lock:
            if self._futures.pop(number, None) is None:
                return
            pieces = self._session.cancel(number)
            if self._channel is not None and pieces:
                self._channel.write(pieces)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake anyhow; closed: it has ended
            self._wake_in.send(b"\0")

    def _write_due(self, now: float) -> None:
        if self._channel is not None and self._channel.greeted:
            self._channel.write(self._session.take(now))

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._begin()
            while not self._closing:
                try:
                    self._serve()
                except StagelineError as error:
                    self._lost(error)
        finally:
            self._closing = True
            self._drop_channel()
            with self._lock:
                ended = self._session.end(closed_error())
            self._settle(ended)
            for end in (self._selector, self._wake_in, self._wake_out):
                end.close()

    def _begin(self) -> None:
        """Each address once; the constructor waits for this."""
        complete = False
        while not complete and not self._closing:
            try:
                self._open()
                while self._hello is None and not self._closing:
                    self._turn()
                break
            except StagelineError as error:
                self._drop_channel()
                complete = self._dialer.failed(time.monotonic(), why=error.message)
                if complete:
                    self._first.set_exception(self._dialer.of_all(error))
                    self._closing = True
        if not self._first.done():
            self._first.set_result(None)

    def _serve(self) -> None:
        """One step: connect if something is to be sent, otherwise read and write."""
        if self._channel is None:
            with self._lock:
                needed = self._session.waiting
            now = time.monotonic()
            if needed and now >= self._dialer.not_before:
                self._open()
                return
            self._sleep(self._until(self._dialer.not_before if needed else None, now))
        else:
            self._turn()
        with self._lock:
            ended = self._session.due(time.monotonic())
        self._settle(ended)

    def _open(self) -> None:
        core = self._make_core()
        channel = Channel(self._dialer.address, core, self._security, self._timeout_s)
        self._selector.register(channel.socket, selectors.EVENT_READ)
        self._writing = False
        with self._lock:
            self._channel = channel
            self._core = core

    def _lost(self, error: StagelineError) -> None:
        now = time.monotonic()
        self._drop_channel()
        with self._lock:
            complete = self._dialer.failed(now, error.retry_after_s or 0.0, error.message)
            ended = self._session.lost(error, now)
            ended += self._session.apart(self._dialer.of_all(error), now, all_tried=complete)
        self._settle(ended)

    def _drop_channel(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            self._selector.unregister(channel.socket)
            channel.close()

    def _turn(self) -> None:
        """Wait for the socket, or a reason to look up, and act on it."""
        channel = self._channel
        if channel is None:
            return
        now = time.monotonic()
        with self._lock:
            alive = channel.keep_alive(now)
            self._write_due(now)
            until = self._until(None if alive is None else now + alive, now)
        readable, writable = self._sleep(until, channel)
        if readable:
            self._read(channel)
        if writable:
            channel.flush()

    def _read(self, channel: Channel) -> None:
        finished = channel.receive()
        now = time.monotonic()
        with self._lock:
            if self._core.hello is not None and self._core.hello is not self._hello:
                self._hello = self._core.hello
                self._session.connected(self._hello.limits)
                self._write_due(now)
            ended = [self._session.answered(event.id, event.value, now) for event in finished]
            if finished:
                self._dialer.works()
        self._settle([one for one in ended if one is not None])

    def _until(self, at: float | None, now: float) -> float | None:
        """Seconds until `at` or the session's next timer."""
        times = [one for one in (at, self._session.wake_at()) if one is not None]
        return max(0.0, min(times) - now) if times else None

    def _sleep(self, seconds: float | None, channel: Channel | None = None) -> tuple[bool, bool]:
        """Whether the channel can be read and written."""
        if channel is not None and channel.has_more != self._writing:
            self._writing = channel.has_more
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(channel.socket, both if self._writing else selectors.EVENT_READ)
        ready = {key.fileobj: mask for key, mask in self._selector.select(seconds)}
        if self._wake_out in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_out.recv(4096)
        mask = ready.get(channel.socket, 0) if channel is not None else 0
        return bool(mask & selectors.EVENT_READ), bool(mask & selectors.EVENT_WRITE)

    def _settle(self, ended: Sequence[Ended]) -> None:
        for one in ended:
            with self._lock:
                future = self._futures.pop(one.number, None)
            if future is None or not future.set_running_or_notify_cancel():
                continue
            if isinstance(one.value, StagelineError):
                future.set_exception(one.value)
            else:
                future.set_result(one.value)
