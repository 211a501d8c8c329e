"""Every stage that one model may have, given what other models take of the nodes: arrays for the label search.

Axes: g a group of nodes that may serve one stage (one node, or replicas), k the codec of the hop into the stage and
l of the one out of it (0: none), a and b the stage's blocks [a, b), i and j nodes, c a cut. Ingress and egress are part
of the stages that start at 0 and end at the last cut. Seconds are those of the objective: times the model's share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .costs import PLAIN, link_bandwidth, port_bandwidth, share_of
from .feasible import Run, held_bytes, running_on
from .parts import Codec, Model, Port
from .problem import Problem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NO_LINK = 1e200
"""Seconds over a link that is not there: finite, so that no share of them is not a number."""

LONGEST_S = 1e150
"""Whatever takes longer is impossible."""

MAX_CELLS = 30_000_000
"""Of the largest array; groups of replicas are left out beyond it."""


@dataclass(frozen=True)
class Others:
    """What the other models take: busy seconds, and by node id the runs that they place there."""

    nodes_s: Floats
    links_s: Floats
    ingress_s: Floats
    egress_s: Floats
    media_s: Floats
    hosted: Mapping[str, Mapping[str, Sequence[Run]]] = field(default_factory=dict)

    @classmethod
    def none(cls, problem: Problem) -> Others:
        size = len(problem.nodes)
        one = np.zeros(size)
        return cls(one, np.zeros((size, size)), one, one, np.zeros(len(problem.media)))


@dataclass(frozen=True)
class Space:
    """`busy[i, k, l, a, b]`: seconds per item of a stage on a node, inf where it may not be; not times `share`.

    `members[g, r]`: nodes of a group, the first repeated to fill up; `parts[g, r, k, l, a, b]`: their shares of the
    items (None: no group has replicas). `stage_s[g, k, l, a, b]` and `links_s[i, j, k, c]`: how busy the stage and a
    whole hop make the busiest node, port or link, `loads_s[i, j]` of it taken by others. `mask[g]`: the group's bits,
    `before[g]`: bits of equal nodes that must be used first. `required`: bits that a plan must have.
    """

    problem: Problem
    model: Model
    share: float
    codecs: tuple[Codec, ...]
    busy: Floats
    members: Ints
    mask: Ints
    before: Ints
    parts: Floats | None
    stage_s: Floats
    links_s: Floats
    loads_s: Floats
    required: int
    complete: bool

    @property
    def blocks(self) -> int:
        return len(self.model.blocks)

    def wire_bytes(self) -> Floats:
        """`[k, c]`: bytes on the wire of a hop."""
        return np.outer([codec.ratio for codec in self.codecs], self.model.cuts_bytes)


def build_space(
    problem: Problem,
    model: Model,
    others: Others,
    *,
    required: int = 0,
    replicas: bool = True,
    only: Sequence[tuple[int, ...]] | None = None,
) -> Space:
    """`complete` is false where groups of replicas were left out that might matter: there are too many, a required
    node would do nothing in them, or `only` some were asked for.
    """
    codecs = (PLAIN, *model.allowed_codecs())
    share = share_of(problem, model)
    busy = _busy(problem, model, codecs, others)
    groups, complete = (only, False) if only else _groups(model, busy, model.max_replicas if replicas else 1)
    members = np.array([[*group, *[group[0]] * (max(map(len, groups)) - len(group))] for group in groups])
    mask = np.array([sum(1 << node for node in group) for group in groups], dtype=np.int64)
    wire = np.outer([codec.ratio for codec in codecs], model.cuts_bytes)
    links = share * _over_links(problem, wire)
    parts, busiest, idle = _replicated(busy, groups, members.shape[1])
    stage = _stage_s(problem, model, others, share, groups, busiest, parts)
    before = np.zeros_like(mask) if only else _before(problem, busy, links, others, groups, required)
    return Space(
        problem=problem,
        model=model,
        share=share,
        codecs=codecs,
        busy=busy,
        members=members,
        mask=mask,
        before=before,
        parts=parts if members.shape[1] > 1 else None,
        stage_s=stage,
        links_s=links,
        loads_s=others.links_s,
        required=required,
        complete=complete and not (required and idle),
    )


def _busy(problem: Problem, model: Model, codecs: Sequence[Codec], others: Others) -> Floats:
    cuts = np.array(model.cuts_bytes, dtype=np.float64)
    ratio, coding = (np.array([getattr(codec, name) for codec in codecs]) for name in ("ratio", "byte_s"))
    found = np.empty((len(problem.nodes), len(codecs), len(codecs), len(cuts), len(cuts)))
    for i, box in enumerate(problem.nodes):
        ends = (ratio * box.byte_s + coding)[:, None] * cuts  # [k, c]: one end of a hop
        runs = _seconds(model, i) + 2 * box.hop_s
        runs[(shortage(problem, model, i, others) > 0) | box.excluded] = math.inf
        found[i] = runs + ends[:, None, :, None] + ends[None, :, None, :]
    found[:, 1:, :, 0, :] = math.inf  # ingress and egress are not coded
    found[:, :, 1:, :, -1] = math.inf
    if model.source is not None:
        found[np.arange(len(problem.nodes)) != problem.node_index()[model.source], :, :, 0, :] = math.inf
    return found


def _seconds(model: Model, node: int) -> Floats:
    seconds = np.array([block.seconds[node] for block in model.blocks])
    able = np.isfinite(seconds)
    total = np.concatenate([[0.0], np.cumsum(np.where(able, seconds, 0.0))])
    unable = np.concatenate([[0], np.cumsum(~able)])
    runs = np.where(unable[None, :] == unable[:, None], total[None, :] - total[:, None], math.inf)
    return np.where(np.tri(len(total), dtype=bool), math.inf, np.maximum(runs, 0.0))


def shortage(problem: Problem, model: Model, node: int, others: Others) -> Ints:
    """`[a, b]`: bytes that the node lacks for the stage, also beside the running plan; 0 or less where it fits."""
    box, size = problem.nodes[node], len(model.blocks)
    theirs, now = others.hosted.get(box.id, {}), running_on(problem, box.id)
    weights, rest = stage_bytes(model)
    lacking = weights + rest - (box.memory_bytes - box.base_bytes - held_bytes(problem.models, theirs))
    if not now:
        return lacking
    here = now.get(model.name, [])
    kept = np.zeros(size, dtype=np.int64)
    for start, end in here:
        kept[start:end] = [block.weight_bytes for block in model.blocks[start:end]]
    overlap = np.concatenate([[0], np.cumsum(kept)])
    room = box.memory_bytes - box.base_bytes - held_bytes(problem.models, theirs, now)
    beside = weights + rest - (overlap[None, :] - overlap[:, None]) - room
    settled = all(run in now.get(name, []) for name, runs in theirs.items() for run in runs)
    for start, end in here:
        beside[start, end] = 0 if settled else -room
    found: Ints = np.maximum(lacking, beside)
    return found


def stage_bytes(model: Model) -> tuple[Ints, Ints]:
    """`[a, b]`: bytes of the weights, and of workspace and buffers, of the stage."""
    total = np.concatenate([[0], np.cumsum([block.weight_bytes for block in model.blocks])])
    space = np.array([block.workspace_bytes for block in model.blocks], dtype=np.int64)
    rest = np.zeros((len(total), len(total)), dtype=np.int64)
    for a in range(len(space)):
        rest[a, a + 1 :] = np.maximum.accumulate(space[a:])
    return np.maximum(total[None, :] - total[:, None], 0), rest + model.buffer_bytes


def _groups(model: Model, busy: Floats, replicas: int) -> tuple[list[tuple[int, ...]], bool]:
    useful = [i for i in range(len(busy)) if np.isfinite(busy[i]).any()]
    found: list[tuple[int, ...]] = [(i,) for i in useful] or [(0,)]
    cells = busy[0].size if len(busy) else 1
    for size in range(2, min(replicas, len(useful)) + 1):
        if (len(found) + math.comb(len(useful), size)) * size * cells > MAX_CELLS:
            return found, False
        found += combinations(useful, size)
    return found, True


def _replicated(busy: Floats, groups: Sequence[tuple[int, ...]], most: int) -> tuple[Floats, Floats, bool]:
    """Shares of the items by group and member, the seconds that each of its members is busy, and what is left out.

    That is, whether there were groups of which one member takes no time and so the others would have nothing to do.
    """
    idle = False
    parts = np.zeros((len(groups), most if most > 1 else 0, *busy.shape[1:]))
    busiest = np.empty((len(groups), *busy.shape[1:]))
    for g, group in enumerate(groups):
        if len(group) == 1:
            busiest[g] = busy[group[0]]
            parts[g, :1] = np.isfinite(busiest[g])
            continue
        costs = busy[list(group)]
        with np.errstate(divide="ignore", invalid="ignore"):
            even = 1 / (1 / costs).sum(axis=0)
            split = even / costs
        free = (costs == 0).all(axis=0)
        split[:, free] = 1 / len(group)
        able, usable = np.isfinite(costs).all(axis=0), free | (costs > 0).all(axis=0)
        idle = idle or bool((able & ~usable).any())
        usable &= able
        busiest[g] = np.where(usable, even, math.inf)
        parts[g, : len(group)] = np.where(usable, split, 0.0)
    return parts, busiest, idle


def _stage_s(
    problem: Problem,
    model: Model,
    others: Others,
    share: float,
    groups: Sequence[tuple[int, ...]],
    busiest: Floats,
    parts: Floats,
) -> Floats:
    found = share * busiest
    ports = (
        (problem.ingress, others.ingress_s, model.cuts_bytes[0], np.s_[:, :, 0, :]),
        (problem.egress, others.egress_s, model.cuts_bytes[-1], np.s_[:, :, :, -1]),
    )
    for g, group in enumerate(groups):
        found[g] += others.nodes_s[list(group)].max()
        for port, load, size, where in ports:
            for r, node in enumerate(group):
                part = parts[g, r][where] if parts.shape[1] else np.ones_like(found[g][where])
                found[g][where] = np.maximum(found[g][where], load[node] + share * part * _port_s(port, node, size))
    found[found >= LONGEST_S] = math.inf
    return found


def _port_s(port: Port | None, node: int, size: int) -> float:
    bandwidth = port_bandwidth(port, node)
    return (size / bandwidth if size else 0.0) if bandwidth else NO_LINK


def _over_links(problem: Problem, wire: Floats) -> Floats:
    size = len(problem.nodes)
    rate = np.array([[link_bandwidth(problem, i, j) for j in range(size)] for i in range(size)]).reshape(size, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = wire / rate[:, :, None, None]
    found[rate == 0] = NO_LINK
    return found


def _before(
    problem: Problem, busy: Floats, links: Floats, others: Others, groups: Sequence[tuple[int, ...]], required: int
) -> Ints:
    """By group, the equal nodes (any two of which may be swapped in any plan) that come before its own."""
    keys: dict[tuple[object, ...], list[int]] = {}
    earlier = [0] * len(problem.nodes)
    matrices = _matrices(problem, links, others)
    for i, node in enumerate(problem.nodes):
        media = tuple(node.id in medium.nodes for medium in problem.media)
        ports = tuple((p.bandwidth_bytes_per_s[i], p.latency_s[i]) for p in (problem.ingress, problem.egress) if p)
        load = (others.nodes_s[i], others.ingress_s[i], others.egress_s[i])
        now = repr(running_on(problem, node.id))
        same = keys.setdefault((busy[i].tobytes(), media, ports, load, now, required >> i & 1), [])
        alike = [j for j in same if all(_swappable(matrix, i, j) for matrix in matrices)]
        earlier[i] = 1 << alike[-1] if alike else 0
        same.append(i)
    found = [0] * len(groups)
    for g, group in enumerate(groups):
        mine = sum(1 << i for i in group)
        for i in group:
            found[g] |= earlier[i] & ~mine
    return np.array(found, dtype=np.int64)


def _matrices(problem: Problem, links: Floats, others: Others) -> list[Floats]:
    if problem.links is None:
        return [others.links_s]
    return [others.links_s, links[:, :, 0].max(axis=-1), np.array(problem.links.latency_s)]


def _swappable(matrix: Floats, i: int, j: int) -> bool:
    rest = [x for x in range(len(matrix)) if x not in (i, j)]
    rows = np.array_equal(matrix[i, rest], matrix[j, rest]) and np.array_equal(matrix[rest, i], matrix[rest, j])
    return bool(rows and matrix[i, j] == matrix[j, i])
