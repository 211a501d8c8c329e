"""Every stage that one model may have, given what other models take of the nodes: arrays for the label search.

Axes: g a group of nodes that may serve one stage (one node, or replicas), k the codec of the hop into the stage and
l of the one out of it (0: none), a and b the stage's blocks [a, b), i and j nodes, c a cut. Ingress and egress are part
of the stages that start at 0 and end at the last cut. Seconds are those of the objective: times the model's share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .costs import PLAIN, link_bandwidth, port_bandwidth, share_of
from .feasible import Run, held_bytes, running_on
from .groups import groups_of, shared_out
from .parts import Codec, Model, Port
from .problem import Problem
from .shared import weight_table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NO_LINK = 1e200
"""Seconds over a link that is not there: finite, so that no share of them is not a number."""

LONGEST_S = 1e150
"""Whatever takes longer is impossible."""


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
    """`complete` is false where groups of replicas were left out: there are too many, or `only` some were asked for."""
    codecs = (PLAIN, *model.allowed_codecs())
    share = share_of(problem, model)
    busy = _busy(problem, model, codecs, others)
    groups, complete = (only, False) if only else groups_of(busy, model.max_replicas if replicas else 1)
    members = np.array([[*group, *[group[0]] * (max(map(len, groups)) - len(group))] for group in groups])
    mask = np.array([sum(1 << node for node in group) for group in groups], dtype=np.int64)
    wire = np.outer([codec.ratio for codec in codecs], model.cuts_bytes)
    links = _over_links(problem, wire, share)
    idle = required != 0 or any(node.required for node in problem.nodes)
    parts, busiest = shared_out(busy, groups, members.shape[1], idle=idle)
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
        complete=complete,
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
    box = problem.nodes[node]
    theirs, now = others.hosted.get(box.id, {}), running_on(problem, box.id)
    weights, rest = stage_bytes(model)
    lacking = weights + rest - (box.memory_bytes - box.base_bytes - held_bytes(problem.models, theirs))
    if not now:
        return lacking
    here = now.get(model.name, [])
    room = box.memory_bytes - box.base_bytes - held_bytes(problem.models, theirs, now)
    beside = weight_table(model, {block for start, end in here for block in range(start, end)}) + rest - room
    settled = all(run in now.get(name, []) for name, runs in theirs.items() for run in runs)
    for start, end in here:
        beside[start, end] = 0 if settled else -room
    found: Ints = np.maximum(lacking, beside)
    return found


def stage_bytes(model: Model) -> tuple[Ints, Ints]:
    """`[a, b]`: bytes of the weights, and of workspace and buffers, of the stage."""
    weights = weight_table(model)
    space = np.array([block.workspace_bytes for block in model.blocks], dtype=np.int64)
    rest = np.zeros_like(weights)
    for a in range(len(space)):
        rest[a, a + 1 :] = np.maximum.accumulate(space[a:])
    return weights, rest + model.buffer_bytes


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


def _over_links(problem: Problem, wire: Floats, share: float) -> Floats:
    size = len(problem.nodes)
    rate = np.array([[link_bandwidth(problem, i, j) for j in range(size)] for i in range(size)]).reshape(size, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = share * (wire / rate[:, :, None, None])
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
        alike = np.array(same, dtype=np.intp)
        for matrix in matrices if same else ():
            alike = alike[_swappable(matrix, i, alike)]
        earlier[i] = 1 << int(alike[-1]) if len(alike) else 0
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


def _swappable(matrix: Floats, i: int, others: NDArray[np.intp]) -> NDArray[np.bool_]:
    """With which of the others i may change places: their rows are equal, and their columns, but for the two."""
    differ = (matrix[others] != matrix[i]) | (matrix.T[others] != matrix.T[i])
    differ[:, i] = False
    differ[np.arange(len(others)), others] = False
    found: NDArray[np.bool_] = ~differ.any(axis=1) & (matrix[i, others] == matrix[others, i])
    return found
