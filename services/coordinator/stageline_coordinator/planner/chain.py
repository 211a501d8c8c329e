"""The smallest possible largest stage of one chain on unequal nodes whose memory binds.

Runs of blocks on distinct nodes; a stage costs the seconds of its blocks plus the load already on its node.
Links, ingress and egress are no part of this objective, also where the problem states them. Exact while there
are at most `MAX_STATES` multisets of node types (17 different nodes; 20 nodes of 3 types are a few hundred):
the largest stage is one of finitely many sums, found by bisection; for each, a reachability search over the
multisets of nodes used, the subset DP of bottleneck assignment (see `lattice`). Beyond that, `beam`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .beam import search
from .instance import FORBIDDEN, Instance, build
from .lattice import furthest
from .problem import Model, Node
from .ties import cheapest

MAX_STATES = 1 << 17

Run = tuple[int, int, int]  # blocks [start, end) on the node (or type) with that index


@dataclass(frozen=True)
class ChainPlan:
    """`runs`: (start, end, node index) in chain order. `bottleneck_s` includes the load already on the nodes."""

    runs: tuple[Run, ...]
    bottleneck_s: float
    lower_bound_s: float
    algorithm: str


def solve_chain(
    model: Model,
    nodes: Sequence[Node],
    free_bytes: Sequence[int],
    load_s: Sequence[float],
    *,
    merge_equal: bool = True,
    max_states: int = MAX_STATES,
) -> ChainPlan | None:
    """The plan with the smallest bottleneck; among those, the fewest stages, then the smallest sum of compute.

    `free_bytes[i]` and `load_s[i]`: what other models leave of node i, and the seconds per request of this
    model that they keep it busy. None: the search is exhaustive and there is no plan, or (beam) none was found.
    Seconds are exact to 15 digits of the chain's total, so equal figures may differ by about 1e-12 of it.
    The last tie-break is skipped where it would cost more than `ties.MAX_WORK` operations.
    """
    instance = build(model, nodes, free_bytes, load_s, merge_equal=merge_equal)
    if not nodes or any(instance.cost[:, b, b + 1].min() == FORBIDDEN for b in range(instance.blocks)):
        return None
    if instance.states > max_states:
        found, algorithm = search(instance), "beam"
    else:
        found = _exact(instance)
        algorithm = "count-dp" if len(instance.types) < len(nodes) else "subset-dp"
    return None if found is None else _named(model, instance, load_s, *found, algorithm)


def _named(
    model: Model, instance: Instance, load_s: Sequence[float], typed: list[Run], bound: int, algorithm: str
) -> ChainPlan:
    """The plan on real nodes, the first of each type first, its figures from the seconds themselves."""
    spare = [iter(members) for members in instance.types]
    runs = tuple((start, end, next(spare[kind])) for start, end, kind in typed)
    bottleneck = max(load_s[node] + model.stage_seconds(start, end, node) for start, end, node in runs)
    worst = max(int(instance.cost[kind, start, end]) for start, end, kind in typed)
    lower = bottleneck if bound >= worst else min(bottleneck, bound / instance.scale)
    return ChainPlan(runs, bottleneck, lower, algorithm)


def _exact(instance: Instance) -> tuple[list[Run], int] | None:
    values = instance.candidates()
    if furthest(instance, int(values[-1])).max() < instance.blocks:
        return None
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if furthest(instance, int(values[middle])).max() == instance.blocks:
            high = middle
        else:
            low = middle + 1
    bound = int(values[low])
    return cheapest(instance, bound), bound
