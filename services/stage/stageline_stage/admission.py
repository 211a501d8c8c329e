"""Who may connect to this worker, as the coordinator says: taken in here and passed on to the executor."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from stageline.keyring import Keyring
from stageline.messages import Admit, Admitted
from stageline.wire import Message


class Admission:
    """`tell` the coordinator, `pass_on` to the executor. Without a keyring nobody asks for anything."""

    def __init__(
        self, keyring: Keyring | None, tell: Callable[[Message], None], pass_on: Callable[[Message], None]
    ) -> None:
        self._keyring, self._tell, self._pass_on = keyring, tell, pass_on
        self._latest: Admit | None = None

    def admit(self, message: Admit, *, executor_up: bool) -> None:
        """The coordinator names who is let in; it is told so once the executor lets them in, too."""
        if self._keyring is None:
            return
        self._keyring.admit(message)
        self._latest = msgspec.structs.replace(message, keys=tuple(sorted(self._keyring.peers)), beside=False)
        if executor_up:
            self._pass_on(self._latest)
        else:
            self._tell(Admitted(version=message.version))

    def executor_up(self) -> None:
        """A new executor: it was started with what was known then."""
        if self._latest is not None:
            self._pass_on(self._latest)

    def admitted(self, message: Admitted) -> None:
        """The executor lets them in."""
        self._tell(message)
