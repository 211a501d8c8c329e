"""One chain on the nodes as integer tables: exact sums, exact ties, interchangeable nodes merged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .alike import alike
from .hops import Hops, Network, free_hops, hops
from .parts import Model, Node
from .quanta import FORBIDDEN, Ints, Quanta, distinct
from .shared import weight_table

__all__ = ["FORBIDDEN", "Instance", "Ints", "build", "stage_needs"]


@dataclass(frozen=True)
class Instance:
    """`cost[t, a, b]`: quanta that blocks [a, b) keep a node of type t busy, its earlier load included.

    FORBIDDEN where a ≥ b, where the memory does not suffice, or where the node cannot run one of the blocks.
    `work[t, b]`: the compute alone of the first b blocks. `must[t]`: every node of the type has to serve a stage.
    `types[t]`: indices of its nodes; nodes that can serve nothing are in none. See `hops` for the tables of hops.
    """

    cost: Ints
    work: Ints
    hops: Hops
    must: tuple[bool, ...]
    types: tuple[tuple[int, ...], ...]
    quanta: Quanta

    @property
    def blocks(self) -> int:
        return int(self.cost.shape[1]) - 1

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(members) for members in self.types)

    @property
    def states(self) -> int:
        """How many multisets of node types there are."""
        return math.prod(count + 1 for count in self.counts)

    @property
    def spent(self) -> Ints:
        """`[t, a, b]`: the compute of a stage, in quanta."""
        found: Ints = self.work[:, None, :] - self.work[:, :, None]
        return found

    def reversed(self) -> Instance:
        """The same chain from its end to its start."""
        cost = np.ascontiguousarray(self.cost[:, ::-1, ::-1].transpose(0, 2, 1))
        work = self.work[:, -1:] - self.work[:, ::-1]
        return replace(self, cost=cost, work=work, hops=self.hops.reversed())

    def relaxed(self) -> Instance:
        """Without hops, and a run costs no more than any run that holds it: no plan costs more here."""
        cost = np.minimum.accumulate(self.cost, axis=1)
        cost = np.minimum.accumulate(cost[:, :, ::-1], axis=2)[:, :, ::-1]
        cost[:, np.tri(self.blocks + 1, dtype=bool)] = FORBIDDEN
        free = free_hops(self.counts, self.blocks)
        return replace(self, cost=cost, hops=free, must=(False,) * len(self.types))

    def hardest(self) -> int:
        """What the hardest block costs on the node that suits it best, in whatever run: no plan is better."""
        cost = self.relaxed().cost
        return max(int(cost[:, b, b + 1].min(initial=FORBIDDEN)) for b in range(self.blocks))

    def candidates(self) -> Ints:
        """Every value that the bottleneck can have, ascending, from what the hardest block needs on."""
        values = np.concatenate([self.cost.ravel(), self.hops.values()])
        return distinct(values[(values >= self.hardest()) & (values < FORBIDDEN)])

    def reach(self, bound: int) -> Ints:
        """`[t, a]`: the largest b such that a node of type t takes blocks [a, b) within `bound` (a: none).

        Only for a `relaxed` instance, where every shorter run is within the bound, too.
        """
        found: Ints = np.arange(self.blocks + 1) + (self.cost <= bound).sum(axis=2)
        return found

    def bottleneck(self, runs: Sequence[tuple[int, int, int]]) -> int:
        """The largest stage or hop of (start, end, type) in chain order; FORBIDDEN where it is no plan."""
        if any(required and [r[2] for r in runs].count(t) < self.counts[t] for t, required in enumerate(self.must)):
            return FORBIDDEN
        stages = [int(self.cost[kind, start, end]) for start, end, kind in runs]
        return max(*stages, self.hops.largest([kind for _, _, kind in runs], [start for start, _, _ in runs]))


def build(
    model: Model,
    nodes: Sequence[Node],
    free_bytes: Sequence[int],
    load_s: Sequence[float],
    *,
    network: Network = Network(),  # noqa: B008
    merge_equal: bool = True,
) -> Instance:
    """Tables for one model, given the memory and the seconds that other models leave of each node."""
    need = stage_needs(model)
    room = [free - node.base_bytes for free, node in zip(free_bytes, nodes, strict=True)]
    useful = [i for i, node in enumerate(nodes) if node.required or _useful(model, node, i, room[i])]
    traits = [_traits(model, nodes[i], i, (room[i], load_s[i]), network) for i in useful]
    types = alike(useful, traits, network.links) if merge_equal else tuple((i,) for i in useful)
    quanta = Quanta.upto(_most_seconds(model, nodes, load_s))
    cost = np.full((len(types), *need.shape), FORBIDDEN, dtype=np.int64)
    work = np.zeros((len(types), len(need)), dtype=np.int64)
    for row, (first, *_) in enumerate(types):
        runs, work[row] = _runs(model, first, quanta)
        busy = quanta.of(load_s[first]) + quanta.array(_sending(model, nodes[first]))
        allowed = runs & (need <= room[first]) & (not nodes[first].excluded)
        cost[row] = np.where(allowed, work[row][None, :] - work[row][:, None] + busy, FORBIDDEN)
    must = tuple(nodes[first].required for first, *_ in types)
    tables, quanta = hops(model, nodes, types, quanta, network)
    return Instance(cost, work, tables, must, types, quanta)


def stage_needs(model: Model) -> Ints:
    """`[a, b]`: bytes of the stage [a, b), the node's base not included; FORBIDDEN where a ≥ b."""
    size = len(model.blocks)
    weights = weight_table(model)
    workspace = np.array([block.workspace_bytes for block in model.blocks], dtype=np.int64)
    need = np.full((size + 1, size + 1), FORBIDDEN, dtype=np.int64)
    for a in range(size):
        largest = np.maximum.accumulate(workspace[a:])
        need[a, a + 1 :] = weights[a, a + 1 :] + largest + model.buffer_bytes
    return need


def stage_seconds(model: Model, nodes: Sequence[Node], run: tuple[int, int, int]) -> float:
    """Seconds that a stage (start, end, node) keeps its node busy, those of sending and receiving included."""
    start, end, node = run
    sent = model.cuts_bytes[start] + model.cuts_bytes[end]
    return model.stage_seconds(start, end, node) + 2 * nodes[node].hop_s + nodes[node].byte_s * sent


def _useful(model: Model, node: Node, index: int, room: int) -> bool:
    sizes = (
        block.weight_bytes + block.workspace_bytes for block in model.blocks if not math.isinf(block.seconds[index])
    )
    return not node.excluded and min(sizes, default=math.inf) + model.buffer_bytes <= room


def _traits(model: Model, node: Node, index: int, left: tuple[int, float], network: Network) -> tuple[object, ...]:
    """What two nodes must have in common to be interchangeable, their links aside."""
    rates = tuple(port.bandwidth_bytes_per_s[index] for port in (network.ingress, network.egress) if port)
    flags = (node.excluded, node.required, node.id == model.source)
    return left, rates, flags, node.hop_s, node.byte_s, tuple(block.seconds[index] for block in model.blocks)


def _runs(model: Model, node: int, quanta: Quanta) -> tuple[NDArray[np.bool_], Ints]:
    """`[a, b]`: whether the node can run blocks [a, b); and the quanta of the first b blocks."""
    seconds = [block.seconds[node] for block in model.blocks]
    unable = np.cumsum([0, *map(math.isinf, seconds)])
    work = np.cumsum([0, *(0 if math.isinf(s) else quanta.of(s) for s in seconds)])
    return unable[None, :] == unable[:, None], work


def _sending(model: Model, node: Node) -> NDArray[np.float64]:
    """`[a, b]`: seconds that receiving before block a and sending before block b keep the node busy."""
    cuts = node.hop_s + node.byte_s * np.array(model.cuts_bytes, dtype=np.float64)
    return cuts[:, None] + cuts[None, :]


def _most_seconds(model: Model, nodes: Sequence[Node], load_s: Sequence[float]) -> float:
    slowest = (max((s for s in block.seconds if not math.isinf(s)), default=0.0) for block in model.blocks)
    sending = max((2 * (node.hop_s + node.byte_s * max(model.cuts_bytes)) for node in nodes), default=0.0)
    return math.fsum(slowest) + max(load_s, default=0.0) + sending
