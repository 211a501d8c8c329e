"""How threads of an executor wake each other, and what they have the I/O thread say to the agent."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import Union

from stageline.messages import Backed, Loaded, LoadFailed, Measured

Posted = Union[Loaded, LoadFailed, Backed, Measured]


class Event:
    """Wakes whoever polls its `fileno()`; set it from any thread."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Readable from `set` until `clear`."""
        return self._descriptor

    def set(self) -> None:
        """Wake who polls."""
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Be ready for the next time."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)


class Outbox:
    """What other threads want said to the agent; `event` is set when there is something."""

    def __init__(self) -> None:
        self._items: deque[Posted] = deque()
        self.event = Event()

    def __len__(self) -> int:
        return len(self._items)

    def post(self, item: Posted) -> None:
        """Hand over an item, from any thread."""
        self._items.append(item)
        self.event.set()

    def take(self) -> list[Posted]:
        """All items, oldest first."""
        self.event.clear()
        items: list[Posted] = []
        while self._items:
            items.append(self._items.popleft())
        return items
