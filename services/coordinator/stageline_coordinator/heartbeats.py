"""Pings and verdicts: the failure detector with the peers that are watched. Pure; times are seconds."""

from __future__ import annotations

from collections.abc import Iterable

from stageline.messages import Ping

from .detector import DetectorConfig, FailureDetector, PeerState, Transition
from .events import PeerChanged

LONGEST_RTT_S = 60.0


class Heartbeats:
    """Call `tick` at least every `config.tick_s`; it also says whom to ping, every `config.ping_s`."""

    def __init__(self, config: DetectorConfig) -> None:
        self._ping_s = config.ping_s
        self._detector = FailureDetector(config)
        self._sequence = 0
        self._next = 0.0
        self._broken: set[str] = set()

    def watch(self, peer: str, now: float) -> None:
        self._detector.add(peer, now)
        self._broken.discard(peer)

    def unwatch(self, peer: str) -> None:
        self._detector.remove(peer)
        self._broken.discard(peer)

    def pings(self, now: float) -> list[tuple[str, Ping]]:
        """The pings that are due."""
        if now < self._next:
            return []
        self._next = now + self._ping_s
        self._sequence += 1
        ping = Ping(sequence=self._sequence, sent_s=now)
        return [(peer, ping) for peer in self._detector.states()]

    def heard(self, peer: str, now: float, sent_s: float | None = None) -> list[PeerChanged]:
        """Traffic from `peer`. A pong echoes when its ping was sent; a time that cannot be is no measurement."""
        if sent_s is None or not 0 <= now - sent_s < LONGEST_RTT_S:
            found = self._detector.heard(peer, now)
        else:
            found = self._detector.pong(peer, now, now - sent_s)
        if peer in self._broken:  # what was sent meanwhile is lost
            self._broken.discard(peer)
            return [PeerChanged(peer, PeerState.ALIVE, returned=True)]
        return _changes([found])

    def disconnected(self, peer: str, now: float) -> list[PeerChanged]:
        """Its connection broke. While the detector is lenient that is only remembered until the peer is heard again."""
        if self._detector.lenient(now) and self._detector.state(peer) in (PeerState.ALIVE, PeerState.SUSPECT):
            self._broken.add(peer)
        return _changes([self._detector.disconnected(peer, now)], disconnected=True)

    def tick(self, now: float) -> list[PeerChanged]:
        return _changes(self._detector.tick(now))


def _changes(found: Iterable[Transition | None], disconnected: bool = False) -> list[PeerChanged]:
    return [PeerChanged(change.peer, change.new, disconnected) for change in found if change]
