"""What a label search may add up over a plan's stages and hops."""

from __future__ import annotations

import math

import numpy as np

from .costs import port_bandwidth, transfer_s
from .feasible import running_on
from .parts import Port
from .relax import Costs
from .shared import weight_table
from .space import NO_LINK, Floats, Space

_EACH = np.s_[:, None, None, None, None]


def effort_costs(space: Space) -> Costs:
    """Nodes used, and less than one for all CPU seconds and coded hops: what decides among equally good plans."""
    stage = _mean_over_replicas(space, space.busy)
    most = float(stage[np.isfinite(stage)].max(initial=0.0)) * space.blocks
    found = _without_hops(space, stage / (2 * most if most > 0 else 1.0) + _sizes(space)[_EACH])
    found.hop[:, :, 1:] = 1e-6
    return found


def moved_costs(space: Space) -> Costs:
    """Bytes of weights that the nodes do not hold; equally many: `effort_costs`, all of it less than a byte."""
    missing = np.empty((len(space.problem.nodes), space.blocks + 1, space.blocks + 1))
    for i, node in enumerate(space.problem.nodes):
        here = running_on(space.problem, node.id).get(space.model.name, [])
        missing[i] = weight_table(space.model, {block for start, end in here for block in range(start, end)})
    moved = np.zeros((len(space.mask), *missing.shape[1:]))
    for g, row in enumerate(space.members.tolist()):
        moved[g] = missing[list(dict.fromkeys(row))].sum(axis=0)
    tie = effort_costs(space)
    scale = 1 / (4 * len(space.problem.nodes))
    return Costs(moved[:, None, None] + tie.stage * scale, tie.hop * scale, tie.fixed, additive=True)


def media_costs(space: Space, weights: Floats) -> Costs:
    """Seconds of the shared media, weighed; what other models use of them is not in it."""
    size = len(space.problem.nodes)
    hop = np.zeros_like(space.links_s)
    for medium, weight in zip(space.problem.media, weights, strict=True):
        inside = np.array([node.id in medium.nodes for node in space.problem.nodes])
        between = np.outer(inside, inside) & ~np.eye(size, dtype=bool)
        seconds = space.share * space.wire_bytes() / medium.bandwidth_bytes_per_s
        hop += weight * between[:, :, None, None] * seconds
    return Costs(np.zeros_like(space.stage_s), hop, np.zeros((size, size)), additive=True)


def delay_costs(space: Space, weight: Floats, wait_s: Floats, own: float) -> Costs:
    """Seconds of an item through all stages: compute times its node's weight, the wait there, hops times `own`."""
    problem, size = space.problem, len(space.problem.nodes)
    spent = np.where(np.isfinite(space.busy), space.busy, 0.0) * weight[_EACH] + wait_s[_EACH]
    spent[:, :, :, 0, :] += own * _port_delays(problem.ingress, size, space.model.cuts_bytes[0])[_EACH[:-1]]
    spent[:, :, :, :, -1] += own * _port_delays(problem.egress, size, space.model.cuts_bytes[-1])[_EACH[:-1]]
    latency = np.array(problem.links.latency_s) if problem.links else np.zeros((size, size))
    latency = np.where(np.eye(size, dtype=bool), 0.0, latency)
    hop = own * (space.links_s / space.share + latency[:, :, None, None])
    return Costs(_mean_over_replicas(space, spent), hop, np.zeros((size, size)), additive=True)


def _port_delays(port: Port | None, size: int, cut: int) -> Floats:
    if port is None:
        return np.zeros(size)
    delays = [transfer_s(cut, port_bandwidth(port, node)) + port.latency_s[node] for node in range(size)]
    return np.minimum(delays, NO_LINK)  # finite: a model of priority 0 gives it no weight


def _sizes(space: Space) -> Floats:
    return np.array([len(set(row)) for row in space.members.tolist()], dtype=np.float64)


def _mean_over_replicas(space: Space, each: Floats) -> Floats:
    """`[g, k, l, a, b]` of `[i, k, l, a, b]`: by the replicas' shares; inf where the stage may not be."""
    if space.parts is None:
        mean = each[space.members[:, 0]]
    else:
        finite = np.where(np.isfinite(each), each, 0.0)
        mean = sum((space.parts[:, r] * finite[row] for r, row in enumerate(space.members.T)), np.zeros(1))
    found: Floats = np.where(np.isfinite(space.stage_s), mean, math.inf)
    return found


def _without_hops(space: Space, stage: Floats) -> Costs:
    size = len(space.problem.nodes)
    return Costs(stage, np.zeros_like(space.links_s), np.zeros((size, size)), additive=True)
