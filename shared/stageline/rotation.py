"""How a worker or gateway changes the key by which the coordinator knows it, without a moment in which it is unknown.

Asked to (`MakeKey`) it makes a new pair, writes it beside the one that it has, and says the public half. Once the
coordinator has that on disk and lets both in (`KeyTaken`), the new one takes the place of the old. Wherever this is cut
short both files are there, and whichever the coordinator knows is found by trying. The coordinator's own key is known
before it has it (`NextKey`), and found in the same way. Files are written in a thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from stageline import logs
from stageline.curve import KeyPair, read_pair, write_pair, write_public
from stageline.durable import sync
from stageline.errors import ConfigError
from stageline.keyfiles import COORDINATOR_PUBLIC, COORDINATOR_PUBLIC_NEXT, NODE_KEY, NODE_KEY_NEXT
from stageline.keyring import Keyring
from stageline.messages import KeyMade, KeyTaken, NextKey
from stageline.monitors import STRANGER, UNKNOWN_KEY


class Rotation:
    """Belongs to one thread. Without a keyring nobody asks for anything."""

    def __init__(self, keyring: Keyring | None) -> None:
        self._keyring = keyring
        self._directory = keyring.directory if keyring is not None else None
        self._made: deque[KeyPair | str] = deque()
        self._spare: KeyPair | None = None
        self._threads: list[Thread] = []
        self._kept = keyring.own if keyring is not None else None
        self._expected = keyring.coordinator if keyring is not None else b""
        if self._directory is not None:
            with suppress(ConfigError):
                self._spare = read_pair(self._directory / NODE_KEY_NEXT)[0]

    def make(self) -> None:
        """Make a new pair, or take the one that an earlier attempt left; `answers` has it when it is on disk."""
        directory, keyring = self._directory, self._keyring
        if directory is None or keyring is None:
            self._made.append("it has no keys")
            return
        self._in_thread(lambda: self._made.append(_make(directory, keyring.name)))

    def answers(self) -> list[KeyMade]:
        """What to tell the coordinator."""
        found = [self._made.popleft() for _ in range(len(self._made))]
        for one in found:
            self._spare = one if isinstance(one, KeyPair) else self._spare
        return [KeyMade(public=one.public) if isinstance(one, KeyPair) else KeyMade(error=one) for one in found]

    def taken(self, message: KeyTaken) -> bool:
        """The coordinator lets that key in; whether to connect anew, with it."""
        if self._spare is None or self._spare.public != message.public:
            return False
        self._swap()
        return True

    def refused(self, why: str) -> None:
        """No connection was made. The coordinator may know our other key, or have its own other one."""
        if why == UNKNOWN_KEY:
            self._swap()
        elif why == STRANGER and self._keyring is not None and self._keyring.successor:
            ring = self._keyring
            ring.coordinator, ring.successor = ring.successor, ring.coordinator

    def announced(self, message: NextKey) -> None:
        """The coordinator will have this key."""
        keyring, directory = self._keyring, self._directory
        if keyring is None or directory is None or message.public in (keyring.coordinator, keyring.successor):
            return
        keyring.successor = message.public
        self._in_thread(lambda: write_public(directory / COORDINATOR_PUBLIC_NEXT, message.public))

    def welcomed(self) -> None:
        """It knows the one that we show, and has the one that we expect: these stay."""
        keyring, directory = self._keyring, self._directory
        if keyring is None or directory is None:
            return
        if keyring.own != self._kept:
            self._kept, self._spare = keyring.own, None
            self._in_thread(lambda: _promote(directory, NODE_KEY_NEXT, NODE_KEY))
        if keyring.coordinator != self._expected:
            self._expected, keyring.successor = keyring.coordinator, b""
            self._in_thread(lambda: _promote(directory, COORDINATOR_PUBLIC_NEXT, COORDINATOR_PUBLIC))

    def _swap(self) -> None:
        if self._keyring is not None and self._spare is not None:
            self._keyring.own, self._spare = self._spare, self._keyring.own

    def settle(self) -> None:
        """Wait until what is to be written is."""
        while self._threads:
            self._threads.pop().join()

    def _in_thread(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except (ConfigError, OSError) as error:
                log = logs.get(part="keys")
                log.error("a key file could not be written, which the next start will need", reason=str(error))

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(Thread(target=run, name="keys", daemon=True))
        self._threads[-1].start()


def _make(directory: Path, name: str) -> KeyPair | str:
    """The pair, or why there is none."""
    path = directory / NODE_KEY_NEXT
    try:
        if not path.exists():
            write_pair(path, KeyPair.fresh(), name)
        return read_pair(path)[0]
    except ConfigError as error:
        return error.message


def _promote(directory: Path, new: str, old: str) -> None:
    """The new file takes the old one's place, on disk; where that fails, both stay and are tried at the next start."""
    (directory / new).replace(directory / old)
    sync(directory)
