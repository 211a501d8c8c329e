"""What is known of the links between nodes and gateways, and the view of it that a problem gets. Pure.

An end is named by its identity, ``role:name``. What the planner works with (`planned`) changes only when links are
first measured, or when two measurements in a row, or live traffic and one measurement, differ from it by `FACTOR` in a
way that matters, so that noise never makes a new problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

FACTOR = 1.5
"""A bandwidth or latency that differs so much from the planned one has drifted."""

USUAL_BYTES, MATTERS_S = 1 << 20, 0.0005
"""A drift matters if the time of so many bytes differs by this: beyond 2 GB/s nobody cares."""

CONFIRMATIONS = 2

Ends = tuple[str, str]
"""(from, to)."""


@dataclass(frozen=True)
class Link:
    """One direction. `bytes_per_s` 0: nothing gets through. Errors are relative."""

    bytes_per_s: float
    latency_s: float
    error: float = 0.0
    latency_error: float = 0.0

    def seconds(self, nbytes: int) -> float:
        """Until the last of so many bytes is there."""
        return self.latency_s + nbytes / self.bytes_per_s if self.bytes_per_s > 0 else math.inf


BROKEN = Link(0.0, 0.0)
BLOCKED = Link(1e3, 0.0)
"""Plans avoid it where they can. Not 0, or where they cannot there would be no plan left, even if the link recovers."""
FREE = Link(1e12, 0.0)


@dataclass(frozen=True)
class Links:
    """Between nodes: row from, column to. inf: a node to itself."""

    bandwidth_bytes_per_s: tuple[tuple[float, ...], ...]
    latency_s: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Port:
    """Between the gateways and each node."""

    bandwidth_bytes_per_s: tuple[float, ...]
    latency_s: tuple[float, ...]


@dataclass(frozen=True)
class Network:
    """Links and gateway ports of some nodes, in their order; None where nothing is known, which means free."""

    links: Links | None = None
    ingress: Port | None = None
    egress: Port | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of a problem that say so; what is not known is left out."""
        found: dict[str, Any] = {}
        for name, port in (("ingress", self.ingress), ("egress", self.egress)):
            if port:
                found[name] = {key: list(row) for key, row in vars(port).items()}
        if self.links:
            rows = vars(self.links).items()
            found["links"] = {key: [[finite(value) for value in row] for row in matrix] for key, matrix in rows}
        return found


@dataclass
class LinkBook:
    """`planned` is what plans reckon with, `latest` what was measured last, `version` counts changes of `planned`."""

    planned: dict[Ends, Link]
    latest: dict[Ends, Link] = field(init=False)
    version: int = 0
    _deviant: dict[Ends, int] = field(default_factory=dict)
    _fresh: dict[Ends, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.latest = dict(self.planned)

    def learn(self, ends: Ends, link: Link, *, confirms: bool = False) -> bool:
        """Take a measurement in; False if it deviates and another one should confirm it.

        `confirms`: it is itself the confirmation of what something else showed.
        """
        self.latest[ends] = link
        known = self.planned.get(ends)
        if known is None:
            self._fresh[ends] = None
            return True
        if not drifted(known, link):
            self._deviant.pop(ends, None)
            return True
        self._deviant[ends] = CONFIRMATIONS if confirms else self._deviant.get(ends, 0) + 1
        return self._deviant[ends] >= CONFIRMATIONS

    def settle(self, complete: bool, *, drifts: bool = True) -> dict[Ends, tuple[Link | None, Link]]:
        """Move what is due into `planned`; returns (before, now) by ends for all that changed.

        First measurements wait until those of all links are in, as `complete` says, others until `drifts` is true.
        """
        due = [ends for ends, seen in self._deviant.items() if seen >= CONFIRMATIONS] if drifts else []
        due += self._fresh if complete else []
        found = {ends: (self.planned.get(ends), self.latest[ends]) for ends in due}
        for ends, (_, link) in found.items():
            self.planned[ends] = link
            self._deviant.pop(ends, None)
            self._fresh.pop(ends, None)
        self.version += bool(found)
        return found

    def break_off(self, ends: Ends) -> bool:
        """Several attempts failed though both ends live: plans must do without the link, at once. False: as before."""
        before = self.planned.get(ends)
        self.latest[ends] = self.planned[ends] = BROKEN
        self._fresh.pop(ends, None)
        self._deviant.pop(ends, None)
        self.version += before != BROKEN
        return before != BROKEN

    def forget(self, identity: str) -> None:
        """That node will not come back."""
        tables: tuple[dict[Ends, Any], ...] = (self.planned, self.latest, self._fresh, self._deviant)
        for table in tables:
            for ends in [ends for ends in table if identity in ends]:
                del table[ends]

    def view(self, nodes: Sequence[str], gateways: Sequence[str], blocked: Collection[Ends] = ()) -> Network:
        """What a problem over these nodes and gateways (identities) gets; `blocked` links are as good as none.

        A link that was not measured yet counts as the slowest of its kind that was, so that no node is preferred for
        being unknown; where none was, all are free. Of several gateways each node's slowest path counts.
        """

        def planned(source: str, target: str) -> Link | None:
            return BLOCKED if (source, target) in blocked else self.planned.get((source, target))

        matrix = [[planned(a, b) for b in nodes] for a in nodes]
        between = _slowest(link for row in matrix for link in row)
        to_nodes = [[planned(g, n) for g in gateways] for n in nodes]
        from_nodes = [[planned(n, g) for g in gateways] for n in nodes]
        return Network(_links(matrix, between) if between else None, _port(to_nodes), _port(from_nodes))


def drifted(known: Link, found: Link) -> bool:
    """Whether a link is no longer what it was, in a way that matters."""
    old, new = known.seconds(USUAL_BYTES), found.seconds(USUAL_BYTES)
    if math.isinf(old) or math.isinf(new):
        return old != new
    pairs = ((known.bytes_per_s, found.bytes_per_s), (known.latency_s, found.latency_s))
    return abs(new - old) >= MATTERS_S and any(max(pair) > FACTOR * min(pair) for pair in pairs)


def _slowest(links: Iterable[Link | None]) -> Link | None:
    """The smallest bandwidth and the largest latency of those that work; None if none is known.

    Where nothing but blocked links is known, the others are free.
    """
    known = [link for link in links if link]
    if known and all(link is BLOCKED for link in known):
        return FREE
    known = [link for link in known if link is not BLOCKED]
    working = [link for link in known if link.bytes_per_s > 0]
    return _worst(working or known) if known else None


def _links(matrix: Sequence[Sequence[Link | None]], otherwise: Link) -> Links:
    def fill(value: Callable[[Link], float], itself: float) -> tuple[tuple[float, ...], ...]:
        return tuple(
            tuple(itself if i == j else value(link or otherwise) for j, link in enumerate(row))
            for i, row in enumerate(matrix)
        )

    return Links(fill(lambda link: link.bytes_per_s, math.inf), fill(lambda link: link.latency_s, 0.0))


def _port(paths: Sequence[Sequence[Link | None]]) -> Port | None:
    """By node, the links of all gateways to or from it."""
    otherwise = _slowest(link for row in paths for link in row)
    if otherwise is None:
        return None
    worst = [_worst([link or otherwise for link in row]) for row in paths]
    return Port(tuple(link.bytes_per_s for link in worst), tuple(link.latency_s for link in worst))


def _worst(links: Sequence[Link]) -> Link:
    return Link(min(link.bytes_per_s for link in links), max(link.latency_s for link in links))


def finite(value: float) -> float | None:
    """As problems have it: JSON knows no infinity."""
    return None if math.isinf(value) else value
