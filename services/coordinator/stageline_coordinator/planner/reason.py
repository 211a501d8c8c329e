"""Why a model has no plan, said as what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from stageline.wording import listed

from .evaluate import evaluate
from .labels import Found, Search, Step
from .parts import Links, Model, Port
from .problem import Problem
from .relax import Costs
from .respond import Stages, others_of
from .space import LONGEST_S, Others, build_space, shortage, stage_bytes
from .totals import rooms, shortfall

WIDTH = 300
MOST_NODES = 16
"""For more nodes it is not tried out what more memory on each of them would do."""

MOST_NAMES = 12
"""So many nodes are named."""

MOST_RUNS = 20_000
"""Nor for more nodes times blocks squared, where the sum of all memory says what is missing."""


def explain(problem: Problem, model: Model, stages: Stages, *, hurry: bool = False) -> str:
    """What would have to change for `model` to have a plan beside the stages of others.

    In a hurry only what is seen at once: the search that found no plan may just have had no time.
    """
    rest = {name: plan for name, plan in stages.items() if name != model.name}
    others = others_of(problem, rest, evaluate(problem, rest))
    beside = f" (beside {', '.join(rest)})" if rest else ""
    if hurry:
        seen = _at_sight(problem, model, others) or _too_little(problem, model, others)
        return f"{seen or _not_in_time(problem, model, others)}{beside}"
    if len(problem.nodes) * len(model.blocks) ** 2 > MOST_RUNS or len(problem.nodes) > MOST_NODES:
        seen = _at_sight(problem, model, others) or _too_little(problem, model, others)
        if seen:
            return f"{seen}{beside}"
    stopped = replace(problem, current={})
    moving = problem.current and problem.nodes and _fewest_links(stopped, model, others).steps is not None
    return f"{_missing(problem, model, others)}{', beside the running plan' if moving else ''}{beside}"


def megabytes(size: int) -> str:
    """A size in bytes for people, rounded up to a tenth: '310.5 MB'."""
    for unit, name in ((10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{math.ceil(size * 10 / unit) / 10:.10g} {name}"
    return f"{size} B"


def _any_of(nodes: Sequence[str]) -> str:
    return f"any one of {', '.join(nodes)}" if len(nodes) > 1 else nodes[0]


def _usable(problem: Problem) -> list[int]:
    return [i for i, node in enumerate(problem.nodes) if not node.excluded]


def _at_sight(problem: Problem, model: Model, others: Others) -> str | None:
    usable = _usable(problem)
    if not usable:
        return f"model '{model.name}': {'all nodes are excluded' if problem.nodes else 'no nodes'}"
    if model.source is not None and problem.node_index()[model.source] not in usable:
        return f"model '{model.name}': its source {model.source} is excluded"
    return _stuck_block(problem, model, usable, others)


def _not_in_time(problem: Problem, model: Model, others: Others) -> str:
    return f"{_too_large(problem, model, _usable(problem), others)} within the time limit"


def _missing(problem: Problem, model: Model, others: Others) -> str:
    usable, seen = _usable(problem), _at_sight(problem, model, others)
    if seen:
        return seen
    found = _fewest_links(problem, model, others)
    if found.steps is not None:
        links = ", ".join(_absent_links(problem, model, found.steps))
        return f"model '{model.name}' needs {links}" if links else _idle(problem, model)
    if found.bound < LONGEST_S / 2 or len(usable) > MOST_NODES:
        return _too_large(problem, model, usable, others)
    least = _least_extra(problem, model, usable, others)
    if least is not None:
        extra, helped = least
        return f"model '{model.name}' needs {megabytes(extra)} more on {_any_of(helped)}"
    return f"model '{model.name}': more memory on one node does not help; more nodes are needed"


def _too_large(problem: Problem, model: Model, usable: Sequence[int], others: Others) -> str:
    weights = model.weight_bytes(range(len(model.blocks)))
    room = sum(max(0, _room(problem, model, i, others)) for i in usable)
    return f"model '{model.name}': no plan found for {megabytes(weights)} in {megabytes(room)} free on all nodes"


def _too_little(problem: Problem, model: Model, others: Others) -> str | None:
    """Said where the sum of all memory proves it."""
    lacking = shortfall(problem, [model], others.hosted)
    if lacking <= 0:
        return None
    weights = model.weight_bytes(range(len(model.blocks)))
    names = list(rooms(problem, [model], others.hosted)) or ["no node"]
    return (
        f"model '{model.name}' needs at least {megabytes(lacking)} more: its weights are {megabytes(weights)}, and "
        f"beside workspaces {listed(names, MOST_NAMES)} {'has' if len(names) == 1 else 'together have'} "
        f"{megabytes(max(0, weights - lacking))} for them"
    )


def _room(problem: Problem, model: Model, node: int, others: Others) -> int:
    """Bytes for stages of the model on a node."""
    weights, rest = stage_bytes(model)
    return int(weights[0, 1] + rest[0, 1] - shortage(problem, model, node, others)[0, 1])


def _stuck_block(problem: Problem, model: Model, usable: Sequence[int], others: Others) -> str | None:
    lacking = {i: shortage(problem, model, i, others) for i in usable}
    for b, block in enumerate(model.blocks):
        able = [
            i for i in usable if math.isfinite(block.seconds[i]) and (b or model.source in (None, problem.nodes[i].id))
        ]
        need = model.stage_bytes(b, b + 1)
        what = f"model '{model.name}': block {block.name} ({megabytes(need)})"
        if not able:
            return f"{what} can run on no node"
        least = min(int(lacking[i][b, b + 1]) for i in able)
        if least > 0:
            helped = [problem.nodes[i].id for i in able if lacking[i][b, b + 1] == least]
            return f"{what} fits on no node: it needs {megabytes(least)} more on {_any_of(helped)}"
    return None


def _fewest_links(problem: Problem, model: Model, others: Others) -> Found:
    """The plan that needs the fewest links that are not there, required nodes aside."""
    size = len(problem.nodes)
    open_links = replace(problem, links=None, ingress=None, egress=None)
    space = build_space(open_links, model, others, replicas=False)
    stage = np.where(np.isfinite(space.stage_s), 0.0, math.inf)
    index = space.members[:, 0]
    stage[:, :, :, 0, :] += _none(problem.ingress, size)[index][:, None, None, None]
    stage[:, :, :, :, -1] += _none(problem.egress, size)[index][:, None, None, None]
    hop = np.zeros_like(space.links_s) + _no_links(problem.links, size)[:, :, None, None]
    costs = Costs(stage, hop, np.zeros((size, size)), additive=True)
    return Search(space, costs).run(LONGEST_S, WIDTH)


def _none(port: Port | None, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([float(port is not None and port.bandwidth_bytes_per_s[i] == 0) for i in range(size)])


def _no_links(links: Links | None, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rate = np.array(links.bandwidth_bytes_per_s) if links else np.ones((size, size))
    return np.where(np.eye(size, dtype=bool), 0.0, (rate == 0).astype(np.float64))


def _absent_links(problem: Problem, model: Model, steps: Sequence[Step]) -> list[str]:
    size, ids = len(problem.nodes), [node.id for node in problem.nodes]
    first, last = steps[0].nodes[0], steps[-1].nodes[0]
    found = [f"a link from the gateway to {ids[first]}"] if _none(problem.ingress, size)[first] else []
    for before, after in pairwise(steps):
        a, b = before.nodes[0], after.nodes[0]
        if _no_links(problem.links, size)[a, b]:
            cut = model.cuts_bytes[after.start]
            found.append(f"a link from {ids[a]} to {ids[b]} (for {megabytes(cut)})")
    return [*found, *([f"a link from {ids[last]} to the gateway"] if _none(problem.egress, size)[last] else [])]


def _idle(problem: Problem, model: Model) -> str:
    required = ", ".join(node.id for node in problem.nodes if node.required or node.id in model.required)
    return f"model '{model.name}': no plan uses all of the required {required}"


def _least_extra(problem: Problem, model: Model, usable: Sequence[int], others: Others) -> tuple[int, list[str]] | None:
    """The fewest bytes that one node would need beyond what it has, and the nodes for which they suffice."""
    best, helped = 1 << 62, list[str]()
    for i in usable:
        lacking = shortage(problem, model, i, others)[np.triu_indices(len(model.blocks) + 1, 1)]
        steps = [int(step) for step in np.unique(lacking) if 0 < step <= best]
        if not steps or not _fits_with(problem, model, others, i, steps[-1]):
            continue
        low, high = 0, len(steps) - 1
        while low < high:
            middle = (low + high) // 2
            if _fits_with(problem, model, others, i, steps[middle]):
                high = middle
            else:
                low = middle + 1
        if steps[low] < best:
            best, helped = steps[low], []
        helped.append(problem.nodes[i].id)
    return (best, helped) if helped else None


def _fits_with(problem: Problem, model: Model, others: Others, node: int, extra: int) -> bool:
    nodes = list(problem.nodes)
    nodes[node] = replace(nodes[node], memory_bytes=nodes[node].memory_bytes + extra)
    return _fewest_links(replace(problem, nodes=tuple(nodes)), model, others).steps is not None
