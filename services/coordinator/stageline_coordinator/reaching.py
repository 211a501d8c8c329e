"""Tries the addresses by which workers and gateways say that others reach them, so that they can be told what it saw.

A connection is made as their peers would make it, over TCP and with keys to that very process, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from stageline.addresses import split_key
from stageline.errors import ConfigError
from stageline.messages import DATA, PROBE, Tried
from stageline.monitors import progress
from stageline.sockets import Socket, Sockets

from .events import AddressesTried
from .peers import Offer

TRY_S = 3.0
AGAIN_S = 30.0
AT_ONCE = 32
"""Peers whose addresses are tried at the same time."""

SILENT = "nobody answers there"
OTHER = "somebody answers there, but not this process"


@dataclass
class _Trial:
    offers: tuple[Offer, ...]
    until: float = 0.0
    sockets: dict[str, Socket] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    again_at: float | None = None


class Reaching:
    """Call `tick` often with what all peers that are here offer."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._trials: dict[str, _Trial] = {}

    def tick(self, offers: Mapping[str, tuple[Offer, ...]], now: float) -> list[AddressesTried]:
        """What was found out since the last call; `offers` are the addresses of each peer, by its identity."""
        for peer in [peer for peer, trial in self._trials.items() if offers.get(peer) != trial.offers]:
            self._close(self._trials.pop(peer))
        under_way = sum(bool(trial.sockets) for trial in self._trials.values())
        due = (peer for peer, offered in offers.items() if offered and self._due(peer, now))
        for peer in list(islice(due, max(0, AT_ONCE - under_way))):
            self._trials[peer] = self._begin(offers[peer], now)
        return list(self._finished(now))

    def close(self) -> None:
        """Give up what is under way."""
        for trial in self._trials.values():
            self._close(trial)
        self._trials.clear()

    def _due(self, peer: str, now: float) -> bool:
        trial = self._trials.get(peer)
        return trial is None or (trial.again_at is not None and now >= trial.again_at)

    def _begin(self, offers: tuple[Offer, ...], now: float) -> _Trial:
        trial = _Trial(offers, now + TRY_S)
        for offer in offers:
            try:
                channel = PROBE if offer.channel == PROBE.name else DATA
                trial.sockets[offer.address] = self._sockets.connect(channel, offer.address, tried=True)
                trial.problems[offer.address] = SILENT
            except ConfigError as error:
                trial.problems[offer.address] = error.message
        return trial

    def _finished(self, now: float) -> Iterator[AddressesTried]:
        for peer, trial in self._trials.items():
            if trial.until == 0.0:
                continue
            for address, socket in list(trial.sockets.items()):
                for step in progress(socket):
                    trial.problems[address] = {"connected": OTHER, "through": ""}[step]
                if not trial.problems[address]:
                    self._sockets.release(trial.sockets.pop(address))
            if trial.sockets and now < trial.until:
                continue
            self._close(trial)
            trial.until = 0.0
            trial.again_at = now + AGAIN_S if any(trial.problems.values()) else None
            tried = tuple(Tried(address=split_key(a)[0], problem=why) for a, why in trial.problems.items())
            yield AddressesTried(peer, tried)

    def _close(self, trial: _Trial) -> None:
        for socket in trial.sockets.values():
            self._sockets.release(socket)
        trial.sockets.clear()
