"""What the chain solver makes of one model beside others: a bound, a plan to start from, and often the answer.

It knows neither replicas, codecs, media, nor what others do to a link, nor what memory a move needs. Without codecs
it is asked for the problem as it is; with them also for one whose links are as fast as the smallest codec makes them,
which no plan can beat. What it proves holds wherever these only forbid or add something.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from .chain import ChainPlan, improve
from .feasible import held_bytes
from .labels import LABELS, NOTHING, Found, Step, value_of
from .parts import Links
from .single import Effort, peak_costs
from .space import LONGEST_S, Others, Space


def is_chain(space: Space, others: Others) -> bool:
    """Whether the chain solver's answer is the answer."""
    loads = (others.links_s, others.ingress_s, others.egress_s)
    apart = not space.problem.media and not space.problem.current and not any(one.any() for one in loads)
    return apart and len(space.codecs) == 1 and space.model.max_replicas == 1


def seed(space: Space, others: Others, effort: Effort) -> tuple[Found, str]:
    """The best plan that it finds, uncoded or with all hops coded alike, the bound that it proves, and its name."""
    plan = _solved(space, others, effort, 1.0)
    if plan is not None and not plan.runs:  # nor is there one with replicas, unless to use nodes that are required
        return Found(None, math.inf, 0.0 if space.required and space.model.max_replicas > 1 else math.inf), LABELS
    found = _best(space, [] if plan is None else _coded(space, plan)[:1])
    bound = plan.lower_bound_s * space.share if plan else 0.0
    if len(space.codecs) > 1:
        coded = _solved(space, others, effort, min(codec.ratio for codec in space.codecs))
        found = _best(space, ([found.steps] if found.steps else []) + ([] if coded is None else _coded(space, coded)))
        bound = coded.lower_bound_s * space.share if coded else 0.0
    if space.model.max_replicas > 1:
        bound = 0.0
    return Found(found.steps, found.value, min(bound, found.value)), plan.algorithm if plan else LABELS


def _solved(space: Space, others: Others, effort: Effort, ratio: float) -> ChainPlan | None:
    """With that many bytes on the wire per byte; only a first plan, where that is all the effort is for."""
    problem = space.problem
    nodes = tuple(
        replace(node, required=bool(space.required >> i & 1), byte_s=node.byte_s * min(ratio, 1.0))
        for i, node in enumerate(problem.nodes)
    )
    free = [node.memory_bytes - held_bytes(problem.models, others.hosted.get(node.id, {})) for node in nodes]
    load = [float(one) / space.share for one in others.nodes_s]
    links = _faster(problem.links, min(ratio, 1.0))
    plans = improve(
        space.model,
        nodes,
        free,
        load,
        links=links,
        ingress=problem.ingress,
        egress=problem.egress,
        out_of_time=effort.out_of_time,
        work=effort.work,
    )
    return next(plans, None) if len(effort.widths) == 1 else next(iter(deque(plans, maxlen=1)), None)


def _faster(links: Links | None, ratio: float) -> Links | None:
    if links is None or ratio == 1:
        return links
    rate = tuple(tuple(one / ratio for one in row) for row in links.bandwidth_bytes_per_s)
    return replace(links, bandwidth_bytes_per_s=rate)


def _coded(space: Space, plan: ChainPlan) -> list[tuple[Step, ...]]:
    """The plan, its hops uncoded, and with each of the codecs on all of them."""
    return [
        tuple(Step((node,), start, end, codec if start else 0) for start, end, node in plan.runs)
        for codec in range(len(space.codecs))
    ]


def _best(space: Space, plans: Sequence[tuple[Step, ...]]) -> Found:
    """The best of the plans that may run."""
    values = [(value_of(space, peak_costs(space), steps), steps) for steps in plans]
    possible = [
        (value, steps)
        for value, steps in values
        if value < LONGEST_S and math.isfinite(value) and _used(steps) & space.required == space.required
    ]
    if not possible:
        return NOTHING
    value, steps = min(possible, key=lambda one: one[0])
    return Found(steps, value, 0.0)


def _used(steps: Sequence[Step]) -> int:
    return sum(1 << node for one in steps for node in one.nodes)
