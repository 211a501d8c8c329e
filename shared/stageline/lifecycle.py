"""How a process stops: signals set flags, the main loop looks; a second Ctrl-C forces. Children go with parents."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

EXIT_USAGE = 2
"""What a service ends with whose settings are wrong."""

FORCED_EXIT = 130
PR_SET_PDEATHSIG = 1
"""prctl(2)"""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, and end now if it has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the context SIGTERM raises `KeyboardInterrupt`, as Ctrl-C does, so that what was started is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopSignals:
    """Within the context, SIGTERM and SIGINT set `requested` and make `fileno()` readable for pollers.

    A second SIGINT ends the process at once with exit code 130. Main thread only.
    """

    def __init__(self) -> None:
        self.requested = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._old: dict[int, object] = {}
        self._old_wakeup = -1

    def __enter__(self) -> StopSignals:
        self._old_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """Readable after a signal."""
        return self._reader.fileno()

    def drain(self) -> None:
        """Make `fileno()` quiet again."""
        try:
            while self._reader.recv(64):
                pass
        except BlockingIOError:
            pass

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            os._exit(FORCED_EXIT)
        self.requested = True
