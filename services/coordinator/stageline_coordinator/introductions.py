"""Who lets whom in on the channels between workers and gateways. Pure; times are seconds passed in.

Each worker and gateway has a key that is new at every start. Before the cluster hears of a newcomer, and so before
anybody is told to send to it or it to anybody, everybody has been told its key and has said that it lets it in: a peer
that is refused would try again, but later. One that does not answer in time is not waited for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Union

from stageline.messages import Admit, Hello

PATIENCE_S = 1.0


@dataclass(frozen=True)
class Tell:
    """Send `message` to `peer`."""

    peer: str
    message: Admit


@dataclass(frozen=True)
class Introduced:
    """The cluster may hear `hello` of `peer`; `silent` have not said that they let it in."""

    peer: str
    hello: Hello
    silent: tuple[str, ...] = ()


Step = Union[Tell, Introduced]


@dataclass
class _Waiting:
    hello: Hello
    version: int
    until: float
    receivers: set[str]


class Introductions:
    """`peers` everywhere: the identities of those who are here, with whom all of this is for.

    `own`: the key of the coordinator itself, which tries who can be reached.
    """

    def __init__(self, own: bytes = b"") -> None:
        self._own = own
        self._version = 0
        self._keys: dict[str, bytes] = {}
        self._revoked: dict[str, bytes] = {}
        self._admitted: dict[str, int] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._beside = False

    def hello(self, peer: str, hello: Hello, peers: Collection[str], now: float, *, beside: bool) -> list[Step]:
        """A peer greets. `beside`: not everybody has greeted us yet, so that keys that we do not know must stay."""
        if not hello.data_key or hello.role == "admin":
            return [Introduced(peer, hello)]
        known = self._keys.get(peer) == hello.data_key
        if known and peer not in self._waiting and peer in self._admitted:
            return [Introduced(peer, hello)]
        if known and peer in self._waiting:  # what we told it may have been lost
            self._waiting[peer].hello = hello
            return [Tell(peer, self._message())]
        self._keys[peer] = hello.data_key
        receivers = {*(one for one in peers if one in self._keys), peer}
        steps = self._tell(receivers, beside)
        self._waiting[peer] = _Waiting(hello, self._version, now + PATIENCE_S, receivers)
        return steps

    def admitted(self, peer: str, version: int) -> list[Step]:
        """A peer lets in who is named in that version."""
        self._admitted[peer] = max(min(version, self._version), self._admitted.get(peer, 0))
        return self._ready()

    def tick(self, recorded: Collection[str], peers: Collection[str], now: float, *, beside: bool) -> list[Step]:
        """Wait no longer for who is late, and forget the keys of those who are not even `recorded` any more."""
        if not self._keys:
            return []
        steps: list[Step] = []
        for peer, one in list(self._waiting.items()):
            if now >= one.until:
                del self._waiting[peer]
                self._admitted.setdefault(peer, 0)
                late = tuple(sorted(other for other in one.receivers if self._admitted.get(other, 0) < one.version))
                steps.append(Introduced(peer, one.hello, late))
        gone = self._keys.keys() - set(recorded) - self._waiting.keys()
        for peer in gone:
            del self._keys[peer]
            self._admitted.pop(peer, None)
        if gone or (self._beside and not beside):
            steps += self._tell({one for one in peers if one in self._keys}, beside)
        return steps

    def revoke(self, peer: str, peers: Collection[str], *, beside: bool) -> list[Step]:
        """Have nobody listen to that peer any more, not even over connections that stand."""
        self._waiting.pop(peer, None)
        self._admitted.pop(peer, None)
        key = self._keys.pop(peer, b"")
        if not key:
            return []
        self._revoked[peer] = key
        return self._tell({one for one in peers if one in self._keys}, beside)

    def _tell(self, receivers: Collection[str], beside: bool) -> list[Step]:
        self._version += 1
        self._beside = beside
        message = self._message()
        return [Tell(peer, message) for peer in sorted(receivers)]

    def _message(self) -> Admit:
        own = (self._own,) if self._own else ()
        keys, revoked = tuple(sorted((*self._keys.values(), *own))), tuple(sorted(self._revoked.values()))
        return Admit(version=self._version, keys=keys, beside=self._beside, revoked=revoked)

    def _ready(self) -> list[Step]:
        steps: list[Step] = []
        for peer, one in list(self._waiting.items()):
            if all(self._has(other, one, self._admitted) for other in one.receivers):
                del self._waiting[peer]
                steps.append(Introduced(peer, one.hello))
        return steps

    def _has(self, peer: str, waiting: _Waiting, admitted: Mapping[str, int]) -> bool:
        return peer not in self._keys or admitted.get(peer, 0) >= waiting.version
