"""Who may use the client port: the tokens of a file, which is read again when it changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from stageline import logs
from stageline.clienttokens import ClientTokens, read_tokens
from stageline.errors import ConfigError
from stageline.watching import Watch
from stageline_gateway.allowance import Allowance

REVOKED = "the token was revoked: ask the administrator for another"
EXPIRED = "the token has expired: ask the administrator for another"


class Access:
    """Raises `ConfigError` if there are no tokens to begin with.

    A file that is damaged later leaves the tokens as they were, one that is gone lets nobody in. `check` and `allow`
    may be called by any thread.
    """

    def __init__(self, path: Path, log: logs.Logger, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._log = log.bind(part="tokens")
        self._clock = clock
        self._watch = Watch(path)
        self._tokens = ClientTokens(read_tokens(path))
        self._allowances: dict[str, Allowance] = {}

    def admit(self, text: str) -> Allowance:
        """What the token allows. Raises `AuthenticationError`."""
        token = self._tokens.check(text, self._clock())
        return self._allowances.setdefault(token.id, Allowance(token))

    def allow(self, text: str) -> None:
        """Let an administrator's HTTP request in. Raises what it is to be refused with."""
        allowance = self.admit(text)
        allowance.need("admin")
        allowance.take(time.monotonic())

    def look(self) -> bool:
        """Read the file again if it has changed; whether a token that was in use is lost, by that or by time."""
        if self._watch.changed():
            self._read()
        lost = [allowance for allowance in list(self._allowances.values()) if self._loses(allowance)]
        for allowance in lost:
            del self._allowances[allowance.token.id]
        return bool(lost)

    def _read(self) -> None:
        try:
            tokens = read_tokens(self._path) if self._path.exists() else ()
        except ConfigError as error:
            self._log.error("the client tokens stay as they were", reason=str(error))
            return
        self._tokens = ClientTokens(tokens)
        self._log.info("client tokens read", count=len(tokens))

    def _loses(self, allowance: Allowance) -> bool:
        known = self._tokens.get(allowance.token.id)
        if known is None or known.hash != allowance.token.hash:
            allowance.lost = REVOKED
        elif known.expired(self._clock()):
            allowance.lost = EXPIRED
        else:
            allowance.token = known
        return bool(allowance.lost)
