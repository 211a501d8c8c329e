"""Who is alive: a pure failure detector. Times are seconds on one monotonic clock, given by the caller.

A peer is silent from the last traffic heard from it. Silent for `suspect_s`: SUSPECT (no new work; a standby takes
over). Silent for `evict_s`: EVICTED (re-plan). A disconnect or an executor's exit code suspects at once. Three
things keep the innocent alive:

- the observer's own lateness is forgiven: time between two ticks beyond `tick_s` counts as nobody's silence; and after
  it stood still for `suspect_s`, broken connections are not held against anybody for as long: peers that heard nothing
  from it close theirs and come back over new ones, whose first words may be read after the end of the old;
- both timeouts grow with the measured round trip, by srtt + 4 rttvar (RFC 6298, section 2), at most `rtt_cap_s`;
- when more than half of at least three peers go missing together (within a ping and a tick, over which their
  traffic is spread), the observer suspects itself and holds every verdict for `hold_s`, once: if they are
  missing still, they are judged as usual.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from stageline.errors import ConfigError, LocalProtocolError

_ROUNDING_S = 1e-9


class PeerState(enum.Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    EVICTED = "evicted"  # final: the peer has to be added anew


LEGAL = frozenset(
    {
        (PeerState.ALIVE, PeerState.SUSPECT),
        (PeerState.SUSPECT, PeerState.ALIVE),
        (PeerState.SUSPECT, PeerState.EVICTED),
    }
)


@dataclass(frozen=True)
class DetectorConfig:
    """Raises `ConfigError` unless 0 < ping_s < suspect_s < evict_s, 0 < tick_s, and the rest ≥ 0."""

    ping_s: float = 0.1  # how often the caller pings every peer
    tick_s: float = 0.1  # how often the caller ticks at the latest; more often is harmless
    suspect_s: float = 0.3
    evict_s: float = 0.8
    hold_s: float = 0.1
    rtt_cap_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.ping_s < self.suspect_s < self.evict_s:
            raise ConfigError("detector: must have 0 < ping_s < suspect_s < evict_s")
        if not self.tick_s > 0:
            raise ConfigError("detector: tick_s must be above 0")
        if not (self.hold_s >= 0 and self.rtt_cap_s >= 0):
            raise ConfigError("detector: hold_s and rtt_cap_s must be 0 or more")


@dataclass(frozen=True)
class Transition:
    """`peer` went from `old` to `new`; `silence_s` is what was held against it."""

    peer: str
    old: PeerState
    new: PeerState
    silence_s: float = 0.0


def check(old: PeerState, new: PeerState) -> None:
    """Raises `LocalProtocolError` for a step that is not in `LEGAL`."""
    if (old, new) not in LEGAL:
        raise LocalProtocolError(f"a peer cannot go from {old.value} to {new.value}")


@dataclass
class _Peer:
    heard_at: float
    state: PeerState = PeerState.ALIVE
    forgiven_s: float = 0.0
    missed_at: float | None = None  # when its silence first passed its timeout
    srtt_s: float | None = None
    rttvar_s: float = 0.0

    def silence(self, now: float) -> float:
        return max(0.0, now - self.heard_at - self.forgiven_s)

    def measured(self, rtt_s: float) -> None:
        if self.srtt_s is None:
            self.srtt_s, self.rttvar_s = rtt_s, rtt_s / 2
        else:
            self.rttvar_s += (abs(self.srtt_s - rtt_s) - self.rttvar_s) / 4
            self.srtt_s += (rtt_s - self.srtt_s) / 8

    def allowance(self, cap_s: float) -> float:
        return min(cap_s, (self.srtt_s or 0.0) + 4 * self.rttvar_s)


class FailureDetector:
    """Traffic and ticks in, transitions out. What is said of an unknown or evicted peer is ignored.

    A silent peer that the caller ticks at least every `tick_s` is evicted within `evict_s` + its round-trip
    allowance + twice `hold_s` + a few ticks of the last traffic; ticks that come later stretch this by their lateness.
    """

    def __init__(self, config: DetectorConfig | None = None) -> None:
        self._config = config or DetectorConfig()
        self._peers: dict[str, _Peer] = {}
        self._ticked_at: float | None = None
        self._hold_until: float | None = None  # kept after the hold, while the majority is missing
        self._lenient_until = -math.inf  # the observer stood still shortly before

    def add(self, peer: str, now: float) -> None:
        """A new life for `peer`, ALIVE, whatever it was before."""
        self._peers[peer] = _Peer(heard_at=now)

    def remove(self, peer: str) -> None:
        self._peers.pop(peer, None)

    def state(self, peer: str) -> PeerState | None:
        """None: unknown."""
        known = self._peers.get(peer)
        return known.state if known else None

    def states(self) -> dict[str, PeerState]:
        return {name: peer.state for name, peer in self._peers.items()}

    def holding(self, now: float) -> bool:
        """Whether the observer suspects itself at the moment."""
        return self._hold_until is not None and now < self._hold_until

    def heard(self, peer: str, now: float) -> Transition | None:
        """Any traffic from `peer`."""
        known = self._living(peer)
        if known is None:
            return None
        silence = known.silence(now)
        known.heard_at, known.forgiven_s, known.missed_at = max(now, known.heard_at), 0.0, None
        if known.state is PeerState.SUSPECT:
            return self._move(peer, known, PeerState.ALIVE, silence)
        return None

    def pong(self, peer: str, now: float, rtt_s: float) -> Transition | None:
        """An answer to a ping, `rtt_s` after it."""
        known = self._living(peer)
        if known is not None and rtt_s >= 0:
            known.measured(rtt_s)
        return self.heard(peer, now)

    def disconnected(self, peer: str, now: float) -> Transition | None:
        """The peer's connection broke or its process was seen to exit; see `lenient`."""
        known = self._living(peer)
        if known is None or known.state is PeerState.SUSPECT or self.lenient(now):
            return None
        return self._move(peer, known, PeerState.SUSPECT, known.silence(now))

    def lenient(self, now: float) -> bool:
        """Whether the observer stood still until a moment ago: a broken connection says nothing about its peer then."""
        stood_still = self._ticked_at is not None and self._stall(self._ticked_at, now)
        return stood_still or now < self._lenient_until

    def tick(self, now: float) -> list[Transition]:
        """Judge everyone, one step each at most; call at least every `tick_s`."""
        self._forgive(now)
        due: list[tuple[str, _Peer, PeerState]] = []
        for name, peer in self._peers.items():
            verdict = self._verdict(peer, now)
            if verdict is not None:
                due.append((name, peer, verdict))
        if self._suspect_self(now, bool(due)):
            return []
        return [self._move(name, peer, new, peer.silence(now)) for name, peer, new in due]

    def _living(self, peer: str) -> _Peer | None:
        known = self._peers.get(peer)
        return None if known is None or known.state is PeerState.EVICTED else known

    def _forgive(self, now: float) -> None:
        last, self._ticked_at = self._ticked_at, now
        if last is None:
            return
        if self._stall(last, now):
            self._lenient_until = now + self._config.suspect_s
        for peer in self._peers.values():
            peer.forgiven_s += max(0.0, now - max(last, peer.heard_at) - self._config.tick_s)

    def _stall(self, last: float, now: float) -> bool:
        return now - last - self._config.tick_s >= self._config.suspect_s

    def _verdict(self, peer: _Peer, now: float) -> PeerState | None:
        if peer.state is PeerState.EVICTED:
            return None
        silence = peer.silence(now) - peer.allowance(self._config.rtt_cap_s)
        if silence >= self._config.suspect_s and peer.missed_at is None:
            peer.missed_at = now
        if peer.state is PeerState.ALIVE:
            return PeerState.SUSPECT if silence >= self._config.suspect_s else None
        return PeerState.EVICTED if silence >= self._config.evict_s else None

    def _suspect_self(self, now: float, due: bool) -> bool:
        """Whether to hold: starts where most peers went missing together, ends after `hold_s` or with them."""
        living = [peer for peer in self._peers.values() if peer.state is not PeerState.EVICTED]
        missing = [peer.missed_at for peer in living if peer.missed_at is not None]
        if len(living) < 3 or 2 * len(missing) <= len(living):
            self._hold_until = None
            return False
        window_s = self._config.ping_s + self._config.tick_s + _ROUNDING_S
        together = [at for at in missing if now - at <= window_s]
        if self._hold_until is None and due and 2 * len(together) > len(living):
            self._hold_until = now + self._config.hold_s
        return self.holding(now)

    def _move(self, name: str, peer: _Peer, new: PeerState, silence_s: float) -> Transition:
        check(peer.state, new)
        old, peer.state = peer.state, new
        return Transition(name, old, new, silence_s)
