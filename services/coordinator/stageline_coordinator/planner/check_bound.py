"""A bound of the checker's own on what any plan can reach: cruder than the planner's, and simple.

It lets stages take any node again and again, each on the best nodes for it and each hop on the best link, and bounds
the sum of all work by what the nodes can do together. Both only make plans better than they can be.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

from .check_costs import seconds_of, weights
from .check_reading import Case, Chain


def lower_bound(case: Case) -> float:
    """Seconds of the problem's objective that no plan is below; inf: there is none."""
    if case.objective == "throughput":
        alone = (case.share(chain) * _chain_bound(case, chain) for chain in case.chains.values())
        return max(_work_bound(case), *alone) if case.chains else 0.0
    counted = weights(case)
    return math.fsum(counted[m] * _chain_bound(case, chain) for m, chain in case.chains.items())


def _chain_bound(case: Case, chain: Chain) -> float:
    """The best chain of stages, a node being allowed more than once: largest term for throughput, else their sum."""
    together = case.objective != "throughput"
    blocks = len(chain.weights)
    best = [math.inf] * (blocks + 1)
    best[0] = _port_bound(case, chain, "ingress", chain.cuts[0])
    links = _links(case)
    for start in range(blocks):
        hop = _hop_bound(case, chain, links, chain.cuts[start]) if start else 0.0
        before = _after(best[start], hop, together)
        for end, stage in enumerate(_stage_bounds(case, chain, start), start + 1) if math.isfinite(before) else ():
            best[end] = min(best[end], _after(before, stage, together))
    return _after(best[blocks], _port_bound(case, chain, "egress", chain.cuts[-1]), together)


def _after(before: float, more: float, together: bool) -> float:
    return before + more if together else max(before, more)


def _stage_bounds(case: Case, chain: Chain, start: int) -> Iterator[float]:
    """Of blocks [start, end) on the nodes that suit them best, for each end while any node can hold and run them."""
    pinned = start == 0 and chain.source is not None
    compute = {
        i: 0.0 for i, box in enumerate(case.boxes) if not box.excluded and (not pinned or box.name == chain.source)
    }
    for end in range(start + 1, len(chain.weights) + 1):
        need = chain.need(start, end)
        wire = _least_wire(chain, start) + _least_wire(chain, end)
        compute = {
            i: spent + chain.seconds[end - 1][i]
            for i, spent in compute.items()
            if case.boxes[i].base + need <= case.boxes[i].memory and math.isfinite(chain.seconds[end - 1][i])
        }
        if not compute:
            return
        busy = [spent + 2 * case.boxes[i].hop_s + case.boxes[i].byte_s * wire for i, spent in compute.items()]
        yield _shared(case, 1 if pinned else chain.max_replicas, busy)


def _shared(case: Case, replicas: int, seconds: list[float]) -> float:
    """What is left of a stage's seconds when its best nodes share it."""
    if case.objective != "throughput" or replicas == 1 or 0.0 in seconds:
        return min(seconds)
    return 1 / math.fsum(1 / each for each in heapq.nsmallest(replicas, seconds))


def _least_wire(chain: Chain, cut: int) -> float:
    return chain.cuts[cut] * (_least_ratio(chain) if 0 < cut < len(chain.weights) else 1.0)


def _least_ratio(chain: Chain) -> float:
    return min([1.0, *(ratio for ratio, _ in chain.codecs.values())])


def _links(case: Case) -> list[tuple[float, float]]:
    """Bandwidth and delay between any two nodes that may be used; for throughput the widest alone counts."""
    allowed = [i for i, box in enumerate(case.boxes) if not box.excluded]
    found = [(case.bandwidth[a][b], case.delay[a][b]) for a in allowed for b in allowed if a != b]
    found = [link for link in found if link[0] > 0]
    return [max(found)] if found and case.objective == "throughput" else found


def _hop_bound(case: Case, chain: Chain, links: list[tuple[float, float]], count: int) -> float:
    """Of the best link; replicas on both sides share the hop."""
    wire = count * _least_ratio(chain)
    if case.objective == "throughput":
        return min((seconds_of(wire, bandwidth) for bandwidth, _ in links), default=math.inf) / chain.max_replicas**2
    return min((seconds_of(wire, bandwidth) + delay for bandwidth, delay in links), default=math.inf)


def _port_bound(case: Case, chain: Chain, port: str, count: int) -> float:
    bandwidths, delays = case.ports[port]
    allowed = [i for i, box in enumerate(case.boxes) if not box.excluded and bandwidths[i] > 0]
    if port == "ingress" and chain.source is not None:
        allowed = [i for i in allowed if case.boxes[i].name == chain.source]
    if not allowed:
        return math.inf
    if case.objective == "throughput":
        return min(seconds_of(count, bandwidths[i]) for i in allowed) / chain.max_replicas
    return min(seconds_of(count, bandwidths[i]) + delays[i] for i in allowed)


def _work_bound(case: Case) -> float:
    """All blocks' least seconds over what the nodes can do of them together.

    A node that is at least r times slower than the best at every block does at most objective / r of that work.
    """
    least, total = [], 0.0
    for chain in case.chains.values():
        for row in chain.seconds:
            usable = [s for s, box in zip(row, case.boxes, strict=True) if not box.excluded]
            least.append(min(usable, default=math.inf))
            total += case.share(chain) * least[-1]
    rows = [row for chain in case.chains.values() for row in chain.seconds]
    speeds = [
        1 / min((row[i] / fast for row, fast in zip(rows, least, strict=True) if 0 < fast < math.inf), default=math.inf)
        for i, box in enumerate(case.boxes)
        if not box.excluded
    ]
    if math.isinf(total):
        return math.inf
    return total / math.fsum(speeds) if total else 0.0
