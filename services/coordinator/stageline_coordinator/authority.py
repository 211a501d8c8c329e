"""What the owner of a key may say to the coordinator, and the files that name who is let in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from stageline import logs
from stageline.errors import ConfigError, ForbiddenError
from stageline.gatekeeper import Quiet
from stageline.keyfiles import ADMINS, NODES, read_principals
from stageline.keyring import Keyring, Principal
from stageline.messages import ErrorReply, Follow, GetPlan, Refused
from stageline.wire import Message

from .tokens import Key, OldKey

LOOK_S = 0.5

OF_NODES = ("agent", "gateway")


class Authority:
    """Asked about every message. Without a keyring everybody on this machine may say anything."""

    def __init__(
        self,
        directory: Path | None,
        keyring: Keyring | None,
        joined: Callable[[], Iterable[Key]] = lambda: (),
        old: Callable[[], Iterable[OldKey]] = lambda: (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory, self._keyring, self._joined = directory, keyring, joined
        self._old, self._clock = old, clock
        self._log = logs.get(service="coordinator", part="keys")
        self._quiet = Quiet()
        self._look_at = 0.0
        self._seen = self._state()
        self.read()

    def refusal(self, user: str, identity: str, message: Message) -> Message | None:
        """What to answer in place of doing what is asked; None if it may be. `user` is whose key it came under."""
        why = self._why(user, identity, message)
        if not why:
            return None
        if self._quiet((user, why)):
            key_of = user.partition("#")[0]
            self._log.warning("refused", peer=identity[:80], key_of=key_of, message=type(message).__name__, reason=why)
        number = getattr(message, "id", None)
        if isinstance(number, int):
            return ErrorReply(id=number, code=ForbiddenError.code, message=why)
        return Refused(code=ForbiddenError.code, message=why)

    def blobs(self, user: str) -> tuple[bool, bool]:
        """Whether the owner of that key may read blobs, and whether they may store some."""
        if self._keyring is None:
            return True, True
        owner = self._keyring.knows(user)
        return owner is not None, owner is not None and owner.role == "admin"

    def changed(self, now: float) -> bool:
        """Whether who is let in has changed since this was last asked; then it holds from now on."""
        if self._keyring is None or self._directory is None or now < self._look_at:
            return False
        self._look_at = now + LOOK_S
        state = self._state()
        if state == self._seen:
            return False
        try:
            self.read()
        except ConfigError as error:  # perhaps half written: look again
            self._log.warning("keys cannot be read", reason=error.message)
            return False
        self._seen = state
        self._log.info("keys read again", let_in=len(self._keyring.principals))
        return True

    def read(self) -> None:
        """Let in whom the files name and who joined with a token, but nobody whose key was revoked or is too old."""
        if self._keyring is None or self._directory is None:
            return
        found = read_principals(self._directory, self._keyring.coordinator)
        lost = {old.name for old in self._old() if old.filed and not self.filed(old.name)}
        for key in self._joined():
            if key.revoked or key.name in lost:
                found.pop(bytes.fromhex(key.public), None)
            else:
                found = {public: one for public, one in found.items() if one != Principal("node", key.name)}
                found[bytes.fromhex(key.public)] = Principal("node", key.name)
        now = self._clock()
        for old in self._old():
            if now < old.until and old.name not in lost:
                found[bytes.fromhex(old.public)] = Principal("node", old.name)
            else:
                found.pop(bytes.fromhex(old.public), None)
        self._keyring.principals = found

    def filed(self, name: str) -> bool:
        """Whether a file names a worker or gateway."""
        return self._directory is not None and (self._directory / NODES / f"{name}.pub").exists()

    def owners(self) -> dict[str, Key]:
        """Whose each node's name is."""
        principals = self._keyring.principals if self._keyring is not None else {}
        old = {one.public for one in self._old()}
        found = {
            one.name: Key(one.name, key.hex())
            for key, one in principals.items()
            if one.role == "node" and key.hex() not in old
        }
        return {**found, **{key.name: key for key in self._joined()}}

    def knows(self, name: str) -> bool:
        """Whether a worker or gateway of that name is let in."""
        return self._keyring is None or Principal("node", name) in self._keyring.principals.values()

    def _state(self) -> object:
        if self._directory is None:
            return ()
        files = [path for part in (NODES, ADMINS) for path in (self._directory / part).glob("*.pub")]
        stamps = sorted((str(path), path.stat().st_mtime_ns) for path in files if path.exists())
        now = self._clock()
        return stamps, tuple(self._joined()), tuple((old, now < old.until) for old in self._old())

    def _why(self, user: str, identity: str, message: Message) -> str:
        if self._keyring is None:
            return ""
        owner = self._keyring.knows(user)
        if owner is None:
            return f"the key of {user.partition('#')[0] or 'nobody'} is let in no more"
        role, _, rest = identity.partition(":")
        name = rest.rpartition("/")[0] or rest
        if owner.role == "node":
            if role not in OF_NODES or name != owner.name:
                return f"this key is {owner.name!r}'s, not {name[:80]!r}'s: start it with --name {owner.name}"
            request = isinstance(getattr(message, "id", None), int) and not isinstance(message, GetPlan)
            return "only an administrator's key may ask for this" if request or isinstance(message, Follow) else ""
        if owner.role != role:
            return f"a key of {owner.role} {owner.name!r} cannot speak as {role[:20]}"
        return ""
