"""How fast a placement is, for the comparison of the running plan with a new one. Pure.

The planner's `evaluate` says the same of much more; it needs numpy, which the coordinator's own process does without.
Here what coding a hop costs its nodes is left out: the planner saw to it that it pays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .placement import Placement, Slot

Problem = Mapping[str, Any]
"""What `placement.build_problem` gives."""

Shares = Mapping[str, float]


def bottleneck_s(problem: Problem, placement: Placement) -> float:
    """Seconds that the busiest node, link or gateway port spends when every model gets one request.

    Replicas share requests by their speed. inf where a node is not in the problem, or cannot do what it should.
    """
    index = {node["id"]: i for i, node in enumerate(problem["nodes"])}
    if any(node not in index for slots in placement.values() for slot in slots for node in slot.nodes):
        return math.inf
    models = {model["name"]: model for model in problem["models"]}
    spent: dict[object, float] = {}
    for name, slots in placement.items():
        costs = [{node: _cost(problem, models[name], slot, index[node]) for node in slot.nodes} for slot in slots]
        shares = [_shares(one) for one in costs]
        busy: list[tuple[object, float]] = []
        for cost, share in zip(costs, shares, strict=True):
            busy += [(node, _times(share[node], cost[node])) for node in share]
        busy += _transfers(problem, models[name], slots, shares, index)
        for who, seconds in busy:
            spent[who] = spent.get(who, 0.0) + seconds
    return max(spent.values(), default=0.0)


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


def _transfers(
    problem: Problem,
    model: Mapping[str, Any],
    slots: Sequence[Slot],
    shares: Sequence[Shares],
    index: Mapping[str, int],
) -> Iterator[tuple[object, float]]:
    """Who is busy with what crosses the cuts, ingress and egress included, and for how long."""
    cuts, ratios = model["cuts_bytes"], {codec["name"]: codec["ratio"] for codec in model["codecs"]}
    for way, share, nbytes in (("ingress", shares[0], cuts[0]), ("egress", shares[-1], cuts[-1])):
        rates = problem[way]["bandwidth_bytes_per_s"] if way in problem else None
        for node, part in share.items():
            yield (way, node), _transfer_s(part * nbytes, rates and rates[index[node]])
    rows = problem["links"]["bandwidth_bytes_per_s"] if "links" in problem else None
    for slot, before, after in zip(slots[1:], shares, shares[1:], strict=False):
        nbytes = cuts[slot.start] * ratios.get(slot.codec, 1.0)
        for a, a_share in before.items():
            for b, b_share in after.items():
                rate = rows[index[a]][index[b]] if rows and a != b else None
                yield (a, b), _transfer_s(a_share * b_share * nbytes, rate)


def _transfer_s(nbytes: float, bytes_per_s: float | None) -> float:
    """None: it takes no time; 0: nothing gets through, however little it is."""
    if bytes_per_s is None:
        return 0.0
    return nbytes / bytes_per_s if bytes_per_s > 0 else math.inf


def _times(share: float, seconds: float) -> float:
    return share * seconds if share else 0.0
