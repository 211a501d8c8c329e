"""The smallest possible bottleneck of one chain on unequal nodes and links whose memory binds.

Runs of blocks on distinct nodes. The bottleneck is the largest stage (seconds of its blocks, of sending and
receiving, and the load already on its node) or hop (bytes over bandwidth, ingress and egress included). Solved first
without hops, where a longer prefix is always better (`lattice`); exactly with them while there are few multisets
of node types (`exhaustive`: 16 different nodes; 20 nodes of 3 types are a few hundred); beyond that with a gap to a
proven bound (`beam`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf

from .beam import beam
from .exhaustive import exhaustive, without_hops
from .hops import Network
from .instance import FORBIDDEN, build, stage_seconds
from .parts import Links, Model, Node, Port
from .search import Run
from .standing import Standing, Stop

MAX_STATES = 1 << 17


@dataclass(frozen=True)
class ChainPlan:
    """`runs`: (start, end, node index) in chain order. `bottleneck_s` includes the load already on the nodes.

    No runs, and inf: proven that there is no plan.
    """

    runs: tuple[Run, ...]
    bottleneck_s: float
    lower_bound_s: float
    algorithm: str


def never() -> bool:
    """There is time."""
    return False


def solve_chain(
    model: Model,
    nodes: Sequence[Node],
    free_bytes: Sequence[int],
    load_s: Sequence[float],
    *,
    links: Links | None = None,
    ingress: Port | None = None,
    egress: Port | None = None,
    merge_equal: bool = True,
    max_states: int = MAX_STATES,
    out_of_time: Stop = never,
) -> ChainPlan | None:
    """The last plan of `improve`. None: proven that there is none, or (beam, or out of time) none was found."""
    plans = improve(
        model,
        nodes,
        free_bytes,
        load_s,
        links=links,
        ingress=ingress,
        egress=egress,
        merge_equal=merge_equal,
        max_states=max_states,
        out_of_time=out_of_time,
    )
    last = next(iter(deque(plans, maxlen=1)), None)
    return last if last and last.runs else None


def improve(
    model: Model,
    nodes: Sequence[Node],
    free_bytes: Sequence[int],
    load_s: Sequence[float],
    *,
    links: Links | None = None,
    ingress: Port | None = None,
    egress: Port | None = None,
    merge_equal: bool = True,
    max_states: int = MAX_STATES,
    out_of_time: Stop = never,
    work: float = inf,
) -> Iterator[ChainPlan]:
    """Ever better plans, or the same with a better bound; the first one comes soon, the beam's only with time.

    None: none was found. Where it is proven that there is none, one without runs says so.

    The smallest bottleneck; among those, the fewest stages, then the smallest sum of compute. `free_bytes[i]` and
    `load_s[i]`: what other models leave of node i, and the seconds per request of this model that they keep it
    busy. Seconds are exact to 15 digits of the chain's total, so equal figures may differ by about 1e-12 of it. The
    last tie-break is skipped where it would take long; the beam, which does no more than so much `work`, only breaks
    ties among what it keeps.
    """
    network = Network(links, ingress, egress)
    instance = build(model, nodes, free_bytes, load_s, network=network, merge_equal=merge_equal)
    if not instance.types or instance.hardest() == FORBIDDEN:
        yield ChainPlan((), inf, inf, "")
        return
    standing = Standing(instance, instance.candidates())
    algorithm = "count-dp" if len(instance.types) < sum(instance.counts) else "subset-dp"
    if instance.states <= max_states:
        without_hops(standing, out_of_time)
    steps: Iterator[None] = iter(())
    if not standing.done:
        exact = instance.states <= max_states // 2
        steps = exhaustive(standing, out_of_time) if exact else beam(standing, out_of_time, work)
        algorithm = algorithm if exact else "beam"
    found = None
    for _ in chain(steps, [None]):  # once more at the end: the bound may have become better
        before, found = found, standing.runs and _named(model, nodes, load_s, network, standing, algorithm)
        if found and found != before:
            yield found
    if standing.runs is None and standing.done:
        yield ChainPlan((), inf, inf, algorithm)


def _named(
    model: Model, nodes: Sequence[Node], load_s: Sequence[float], network: Network, standing: Standing, algorithm: str
) -> ChainPlan:
    """The plan on real nodes, the first of each type first, its figures from the seconds themselves."""
    assert standing.runs is not None
    spare = [iter(members) for members in standing.instance.types]
    runs = tuple((start, end, next(spare[kind])) for start, end, kind in standing.runs)
    stages = [load_s[node] + stage_seconds(model, nodes, (start, end, node)) for start, end, node in runs]
    bottleneck = max(*stages, *network.seconds(model, runs))
    if standing.done:
        return ChainPlan(runs, bottleneck, bottleneck, algorithm)
    lower = standing.instance.quanta.seconds(int(standing.values[standing.low]))
    return ChainPlan(runs, bottleneck, min(bottleneck, lower), algorithm)
