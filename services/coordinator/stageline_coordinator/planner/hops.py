"""What crosses between stages, and between gateway and stages, as tables of quanta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from .costs import transfer_s
from .parts import Links, Model, Node, Port
from .quanta import FORBIDDEN, Ints, Quanta, distinct

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """What connects nodes with each other and with the gateway; None: free."""

    links: Links | None = None
    ingress: Port | None = None
    egress: Port | None = None

    def seconds(self, model: Model, runs: Sequence[tuple[int, int, int]]) -> list[float]:
        """Of every hop of a plan of (start, end, node), ingress and egress included."""
        ends = ((0, self.ingress, runs[0][2]), (-1, self.egress, runs[-1][2]))
        rates = [(cut, port.bandwidth_bytes_per_s[node] if port else inf) for cut, port, node in ends]
        for (_, cut, a), (_, _, b) in pairwise(runs):
            rates.append((cut, self.links.bandwidth_bytes_per_s[a][b] if self.links else inf))
        return [transfer_s(model.cuts_bytes[cut], rate) for cut, rate in rates]


@dataclass(frozen=True)
class Hops:
    """`between[t, u, c]`: quanta of cut c from a node of type t to another one of type u.

    `enter[t]` and `leave[t]`: of the input to the first stage and of the output of the last one. FORBIDDEN where there
    is no link, no second node of the type, or the model's source is another node.
    """

    between: Ints
    enter: Ints
    leave: Ints

    def reversed(self) -> Hops:
        """For the chain from its end to its start."""
        between = np.ascontiguousarray(self.between.transpose(1, 0, 2)[:, :, ::-1])
        return Hops(between, self.leave, self.enter)

    def values(self) -> Ints:
        """Every value, ascending."""
        return distinct(np.concatenate([self.between.ravel(), self.enter, self.leave]))

    def largest(self, kinds: Sequence[int], starts: Sequence[int]) -> int:
        """Of a plan whose i-th stage is on a node of type `kinds[i]` from block `starts[i]` on."""
        inner = [int(self.between[t, u, c]) for (t, u), c in zip(pairwise(kinds), starts[1:], strict=True)]
        return max(int(self.enter[kinds[0]]), int(self.leave[kinds[-1]]), *inner)


def free_hops(counts: Sequence[int], blocks: int) -> Hops:
    """No hop takes time, for so many nodes of each type."""
    none = np.zeros(len(counts), dtype=np.int64)
    between = np.zeros((len(counts), len(counts), blocks + 1), dtype=np.int64)
    lone = [t for t, count in enumerate(counts) if count == 1]
    between[lone, lone] = FORBIDDEN
    return Hops(between, none, none)


def hops(
    model: Model,
    nodes: Sequence[Node],
    types: Sequence[Sequence[int]],
    quanta: Quanta,
    network: Network,
) -> tuple[Hops, Quanta]:
    """The tables, and quanta that can say what their values are in seconds."""
    cuts = np.array(model.cuts_bytes, dtype=np.float64)
    first = [members[0] for members in types]
    between = _seconds(cuts, _rates(network.links, types)[:, :, None])
    enter = _seconds(cuts[0], _port(network.ingress, first))
    enter[[model.source not in (None, nodes[i].id) for i in first]] = np.inf
    leave = _seconds(cuts[-1], _port(network.egress, first))
    quanta = quanta.with_beyond(np.concatenate([between.ravel(), enter, leave]))
    tables = Hops(quanta.compared(between), quanta.compared(enter), quanta.compared(leave))
    return tables, quanta


def _rates(links: Links | None, types: Sequence[Sequence[int]]) -> Floats:
    """`[t, u]`: bytes per second between two nodes of these types; 0 where there are no two."""
    lone = [t for t, members in enumerate(types) if len(members) == 1]
    first, other = [members[0] for members in types], [members[-1] for members in types]
    rates = np.array(links.bandwidth_bytes_per_s) if links else np.full((max(other, default=0) + 1,) * 2, np.inf)
    found: Floats = rates[np.ix_(first, other)]
    found[lone, lone] = 0
    return found


def _port(port: Port | None, nodes: Sequence[int]) -> Floats:
    return np.array([port.bandwidth_bytes_per_s[i] if port else np.inf for i in nodes], dtype=np.float64)


def _seconds(size: Floats | np.float64, rate: Floats) -> Floats:
    """Of so many bytes; 0 bytes take none, but without a link nothing goes at all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(rate == 0, np.inf, np.where(size == 0, 0.0, size / rate))
    return found
