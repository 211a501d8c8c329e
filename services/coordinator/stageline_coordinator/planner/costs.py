"""The seconds, shares and weights that every objective is made of; `evaluate` says what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .parts import NO_CODEC, Codec, Model, Port
from .problem import Problem

PLAIN = Codec(NO_CODEC, 1.0)


def link_bandwidth(problem: Problem, a: int, b: int) -> float:
    """Bytes per second from node a to node b; inf where it is free."""
    return math.inf if problem.links is None or a == b else problem.links.bandwidth_bytes_per_s[a][b]


def port_bandwidth(port: Port | None, node: int) -> float:
    """Bytes per second between the gateway and a node; inf where it is free."""
    return port.bandwidth_bytes_per_s[node] if port else math.inf


def share_of(problem: Problem, model: Model) -> float:
    """Its rate over the highest rate; 1 where it has none."""
    highest = max((one.rate_per_s for one in problem.models if one.rate_per_s is not None), default=None)
    return 1.0 if model.rate_per_s is None or highest is None else model.rate_per_s / highest


def weights(problem: Problem) -> dict[str, float]:
    """By model, how much its delay counts: its priority over the sum of all, or all the same if all are 0."""
    total = math.fsum(model.priority for model in problem.models)
    return {one.name: one.priority / total if total else 1 / len(problem.models) for one in problem.models}


def replica_shares(costs: Sequence[float]) -> list[float]:
    """How replicas with these seconds per item share the items: all are equally busy. Free ones take it all."""
    free = [cost == 0 for cost in costs]
    speed = [float(one) for one in free] if any(free) else [1 / cost for cost in costs]
    total = math.fsum(speed)
    return [one / total if total else 1 / len(speed) for one in speed]


def stage_cost(problem: Problem, model: Model, run: tuple[int, int], node: int, codecs: tuple[Codec, Codec]) -> float:
    """Seconds that blocks [run) keep a node busy per item, its hops coded by `codecs` (in, out)."""
    box = problem.nodes[node]
    cuts = [model.cuts_bytes[cut] for cut in run]
    wire = math.fsum(codec.ratio * size for codec, size in zip(codecs, cuts, strict=True))
    coding = math.fsum(codec.byte_s * size for codec, size in zip(codecs, cuts, strict=True))
    return model.stage_seconds(run[0], run[1], node) + 2 * box.hop_s + box.byte_s * wire + coding


def transfer_s(size: float, bandwidth: float) -> float:
    """Seconds of that many bytes on the wire; inf without a link."""
    if bandwidth == 0:
        return math.inf
    return 0.0 if size == 0 else size / bandwidth
