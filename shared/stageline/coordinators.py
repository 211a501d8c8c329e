"""Which of a cluster's coordinators a service talks to, and which it must not listen to any more. Pure.

One of them leads, the others stand by. A service talks to one at a time and goes to the next when it is silent, or to
the one that a standby names. What fences an old leader off is its term: a service listens to nobody whose term is below
the highest that it has been welcomed under, and tells it so by the `term` of its `Hello`.
"""

from __future__ import annotations

from collections.abc import Iterable

from stageline.errors import ConfigError

NOT_LEADING = "not_leading"
"""The code of the `Refused` of a coordinator that stands by; `leader` is who leads, where it knows."""

ASK_AGAIN_S = 0.2
"""Until a standby that does not know who leads is asked again: it may be about to take over."""

ID_BITS = 20
NO_TERM_FROM = 1 << 52
"""Terms above are none: a term fits JSON's exact integers."""


def read_addresses(text: str) -> tuple[str, ...]:
    """``tcp://a:7700,tcp://b:7700``. Raises `ConfigError` where one is none, or none is named."""
    found = tuple(part for part in (piece.strip() for piece in text.split(",")) if part)
    odd = [address for address in found or (text,) if not address.startswith("tcp://")]
    if odd:
        raise ConfigError(f"coordinator must look like tcp://127.0.0.1:7700, got {odd[0]!r}")
    return found


def number_of(term: int) -> int:
    """How many terms the cluster has had with this one, for people; see `next_term`."""
    return term >> ID_BITS if term >> ID_BITS else term


def next_term(highest: int, coordinator: int, *, founder: bool) -> int:
    """A term above `highest` that no other coordinator ever takes.

    Terms carry the id of who takes them in their low bits, so they compare as (number, id) and two coordinators never
    take the same (the ballot numbers of Lamport's "The Part-Time Parliament"). The one that founded the cluster counts
    1, 2, 3 as long as it never heard of another's.
    """
    if founder and not highest >> ID_BITS:
        return highest + 1
    return (number_of(highest) + 1) << ID_BITS | coordinator


class Coordinators:
    """At least one address; the first is tried first."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self._addresses = tuple(addresses)
        self._at = 0
        self._term, self._cluster = 0, ""

    @property
    def current(self) -> str:
        """The one to talk to."""
        return self._addresses[self._at]

    @property
    def several(self) -> bool:
        return len(self._addresses) > 1

    @property
    def term(self) -> int:
        """The highest that a coordinator of this cluster had when it welcomed us."""
        return self._term

    def go_on(self) -> None:
        """The current one does not answer: take the next."""
        self._at = (self._at + 1) % len(self._addresses)

    def redirected(self, leader: str) -> bool:
        """The current one stands by. True if there is another to go to now, False to ask the same again soon."""
        before = self._at
        if leader in self._addresses:
            self._at = self._addresses.index(leader)
        elif leader:  # known to the coordinators by another address
            self.go_on()
        return self._at != before

    def welcomed(self, cluster: str, term: int) -> bool:
        """Whether to listen to the one that welcomes us; if not, it is a leader of the past."""
        if term >= NO_TERM_FROM or (cluster == self._cluster and term < self._term):
            return False
        self._cluster, self._term = cluster, term
        return True
