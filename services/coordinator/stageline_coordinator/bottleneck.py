"""How fast a placement is, for the comparison of the running plan with a new one. Pure.

The planner's `evaluate` says the same of much more; it needs numpy, which the coordinator's own process does without.
Here what coding a hop costs its nodes is left out: the planner saw to it that it pays.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .placement import Placement, Slot
from .wanted import THROUGHPUT

Problem = Mapping[str, Any]
"""What `placement.build_problem` gives."""

Shares = Mapping[str, float]


def objective_s(problem: Problem, placement: Placement) -> float:
    """Seconds of the problem's objective; inf where a node is not in the problem, or cannot do what it should."""
    if problem.get("objective", THROUGHPUT) == THROUGHPUT:
        return bottleneck_s(problem, placement)
    uses = _uses(problem, placement)
    if uses is None:
        return math.inf
    priorities = {name: float(use.model.get("priority", 1.0)) for name, use in uses.items()}
    total = math.fsum(priorities.values())
    delays = {name: _latency_s(use) + _wait_s(name, uses, priorities) for name, use in uses.items()}
    return math.fsum((priorities[name] / total if total else 1 / len(delays)) * s for name, s in delays.items())


def bottleneck_s(problem: Problem, placement: Placement) -> float:
    """Seconds that the busiest node, link or gateway port spends for each request of the most requested model.

    Replicas share requests by their speed. inf where a node is not in the problem, or cannot do what it should.
    """
    uses = _uses(problem, placement)
    if uses is None:
        return math.inf
    spent: dict[object, float] = {}
    for use in uses.values():
        busy: list[tuple[object, float]] = [
            (node, _times(share, costs[node]))
            for costs, shares in zip(use.costs, use.shares, strict=True)
            for node, share in shares.items()
        ]
        for who, seconds in (*busy, *((hop.who, hop.transfer_s) for hop in use.hops)):
            spent[who] = spent.get(who, 0.0) + _times(use.load, seconds)
    return max(spent.values(), default=0.0)


@dataclass(frozen=True)
class _Hop:
    """`share` of the requests cross it; `transfer_s` is of that share."""

    who: object
    share: float
    transfer_s: float
    latency_s: float


@dataclass(frozen=True)
class _Use:
    """A model of the problem, placed: by stage and node, seconds and the share of requests; `load`: relative rate."""

    model: Mapping[str, Any]
    costs: Sequence[Mapping[str, float]]
    shares: Sequence[Shares]
    hops: Sequence[_Hop]
    load: float


def _uses(problem: Problem, placement: Placement) -> dict[str, _Use] | None:
    """None where a node is not in the problem."""
    index = {node["id"]: i for i, node in enumerate(problem["nodes"])}
    if any(node not in index for slots in placement.values() for slot in slots for node in slot.nodes):
        return None
    models = {model["name"]: model for model in problem["models"]}
    highest = max((model["rate_per_s"] for model in models.values() if model.get("rate_per_s")), default=None)
    found = {}
    for name, slots in placement.items():
        model, rate = models[name], models[name].get("rate_per_s")
        costs = [{node: _cost(problem, model, slot, index[node]) for node in slot.nodes} for slot in slots]
        shares = [_shares(one) for one in costs]
        load = rate / highest if rate and highest else 1.0
        found[name] = _Use(model, costs, shares, tuple(_hops(problem, model, slots, shares, index)), load)
    return found


def _latency_s(use: _Use) -> float:
    """Of one request from and to the gateway."""
    stages = zip(use.costs, use.shares, strict=True)
    computing = math.fsum(_times(share, costs[node]) for costs, shares in stages for node, share in shares.items())
    return computing + math.fsum(hop.transfer_s + _times(hop.share, hop.latency_s) for hop in use.hops)


def _wait_s(name: str, uses: Mapping[str, _Use], priorities: Mapping[str, float]) -> float:
    """What a request waits at its nodes for models of equal or higher priority."""
    return math.fsum(
        share * other.load * _times(theirs[node], costs[node])
        for shares in uses[name].shares
        for node, share in shares.items()
        for rival, other in uses.items()
        if rival != name and priorities[rival] >= priorities[name]
        for costs, theirs in zip(other.costs, other.shares, strict=True)
        if node in theirs
    )


def _cost(problem: Problem, model: Mapping[str, Any], slot: Slot, node: int) -> float:
    found = [block["seconds"][node] for block in model["blocks"][slot.start : slot.end]]
    box, cuts = problem["nodes"][node], model["cuts_bytes"]
    messages = 2 * box.get("hop_s", 0.0) + box.get("byte_s", 0.0) * (cuts[slot.start] + cuts[slot.end])
    return math.inf if None in found else math.fsum(found) + messages


def _shares(costs: Shares) -> dict[str, float]:
    """In inverse proportion to the costs, so that all replicas are equally busy."""
    speeds = {node: 1 / cost if cost else math.inf for node, cost in costs.items()}
    total = math.fsum(speeds.values())
    if not 0 < total < math.inf:
        return dict.fromkeys(costs, 1 / len(costs))
    return {node: speed / total for node, speed in speeds.items()}


def _hops(
    problem: Problem,
    model: Mapping[str, Any],
    slots: Sequence[Slot],
    shares: Sequence[Shares],
    index: Mapping[str, int],
) -> Iterator[_Hop]:
    """What crosses the cuts, ingress and egress included."""
    cuts, ratios = model["cuts_bytes"], {codec["name"]: codec["ratio"] for codec in model["codecs"]}
    for way, at_port, nbytes in (("ingress", shares[0], cuts[0]), ("egress", shares[-1], cuts[-1])):
        rates, latencies = _rows(problem, way)
        for node, part in at_port.items():
            spent = _transfer_s(part * nbytes, rates and rates[index[node]])
            yield _Hop((way, node), part, spent, latencies[index[node]] if latencies else 0.0)
    rows, delays = _rows(problem, "links")
    for slot, before, after in zip(slots[1:], shares, shares[1:], strict=False):
        nbytes = cuts[slot.start] * ratios.get(slot.codec, 1.0)
        for (a, a_share), (b, b_share) in itertools.product(before.items(), after.items()):
            share = a_share * b_share
            rate = rows[index[a]][index[b]] if rows and a != b else None
            delay = delays[index[a]][index[b]] if delays and a != b else 0.0
            yield _Hop((a, b), share, _transfer_s(share * nbytes, rate), delay)


def _rows(problem: Problem, part: str) -> tuple[Any, Any]:
    """Bandwidths and latencies of links or a port; None where they are free."""
    found = problem.get(part, {})
    return found.get("bandwidth_bytes_per_s"), found.get("latency_s")


def _transfer_s(nbytes: float, bytes_per_s: float | None) -> float:
    """None: it takes no time; 0: nothing gets through, however little it is."""
    if bytes_per_s is None:
        return 0.0
    return nbytes / bytes_per_s if bytes_per_s > 0 else math.inf


def _times(share: float, seconds: float) -> float:
    return share * seconds if share else 0.0
