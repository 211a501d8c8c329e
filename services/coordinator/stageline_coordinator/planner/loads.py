"""What a plan keeps busy, the busiest first, and in a sentence why. For people; the solver does not use it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from .costs import share_of
from .evaluate import Busy, Evaluation, Stages
from .problem import Problem

NODE, LINK, INGRESS, EGRESS, MEDIUM = "node", "link", "ingress", "egress", "medium"

WORTH_SAYING = 0.01
"""Part of a node's time that sending and receiving must take to be mentioned."""


@dataclass(frozen=True)
class Load:
    """Seconds per item of the most requested model that something is busy.

    `names`: of the node, the sending and the receiving node of a link, the node at a port, or the medium.
    """

    kind: str
    names: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        if self.kind == LINK:
            return f"link {self.names[0]} → {self.names[1]}"
        if self.kind in (INGRESS, EGRESS):
            return f"{self.kind} of {self.names[0]}"
        return f"{self.kind} {self.names[0]}"


def loads(busy: Busy) -> list[Load]:
    """All that is busy at all, the longest first; among equals nodes come before links, ports and media."""
    found = [Load(NODE, (node,), seconds) for node, seconds in busy.nodes.items()]
    found += [Load(LINK, pair, seconds) for pair, seconds in busy.links.items()]
    found += [Load(INGRESS, (node,), seconds) for node, seconds in busy.ingress.items()]
    found += [Load(EGRESS, (node,), seconds) for node, seconds in busy.egress.items()]
    found += [Load(MEDIUM, (medium,), seconds) for medium, seconds in busy.media.items()]
    return sorted((load for load in found if load.seconds > 0), key=lambda load: -load.seconds)


def reason(load: Load, problem: Problem, stages: Stages, found: Evaluation) -> str:
    """Why it is busy for so long, as the rest of a sentence that begins with what it is."""
    if load.kind == NODE:
        return _node_reason(load.names[0], problem, stages, found)
    crossing = ", ".join(_crossing(load, problem, stages))
    shared = "every hop between its nodes takes its turn: " if load.kind == MEDIUM else ""
    return f"{shared}it carries {crossing}"


def indivisible(load: Load, problem: Problem, stages: Stages) -> str:
    """The block that alone makes up the node's one stage, so that no cut can relieve it; "" if there is none."""
    if load.kind != NODE:
        return ""
    hosted = _hosted(load.names[0], problem, stages)
    if len(hosted) != 1:
        return ""
    name, (start, end) = hosted[0]
    model = next(model for model in problem.models if model.name == name)
    return model.blocks[start].name if end == start + 1 else ""


def _hosted(node: str, problem: Problem, stages: Stages) -> list[tuple[str, tuple[int, int]]]:
    return [
        (model.name, stage.blocks)
        for model in problem.models
        for stage in stages.get(model.name, ())
        if node in stage.nodes
    ]


def _node_reason(node: str, problem: Problem, stages: Stages, found: Evaluation) -> str:
    index, parts, computing, total = problem.node_index()[node], [], [], []
    for model in problem.models:
        cost = found.models.get(model.name)
        for stage, spent in zip(stages.get(model.name, ()), cost.stages if cost else (), strict=False):
            if node not in stage.nodes:
                continue
            weight = share_of(problem, model) * spent.shares[node]
            computing.append(weight * model.stage_seconds(*stage.blocks, index))
            total.append(weight * spent.cost_s[node])
            share = f" ({100 * spent.shares[node]:.0f} % of the requests)" if len(stage.nodes) > 1 else ""
            parts.append(f"blocks {stage.blocks[0]}-{stage.blocks[1]} of {model.name}{share}")
    sending = math.fsum(total) - math.fsum(computing)
    sent = f", of which {1000 * sending:.3g} ms are for sending and receiving"
    return f"it runs {' and '.join(parts)}{sent if sending > WORTH_SAYING * math.fsum(total) else ''}"


def _crossing(load: Load, problem: Problem, stages: Stages) -> list[str]:
    """What goes over a link, a port or a medium."""
    found = []
    for model in problem.models:
        placed = stages.get(model.name, ())
        if placed and load.kind == INGRESS and load.names[0] in placed[0].nodes:
            found.append(f"the input of {model.name} ({_size(model.cuts_bytes[0])})")
        if placed and load.kind == EGRESS and load.names[0] in placed[-1].nodes:
            found.append(f"the output of {model.name} ({_size(model.cuts_bytes[-1])})")
        for before, after in pairwise(placed):
            if _crosses(load, problem, before.nodes, after.nodes):
                size, codec = model.cuts_bytes[after.blocks[0]], after.codec
                coded = "" if codec == "none" else f", sent as {codec}"
                found.append(f"the cut before block {after.blocks[0]} of {model.name} ({_size(size)}{coded})")
    return found


def _crosses(load: Load, problem: Problem, before: tuple[str, ...], after: tuple[str, ...]) -> bool:
    if load.kind == LINK:
        return load.names[0] in before and load.names[1] in after
    members = next((medium.nodes for medium in problem.media if load.kind == MEDIUM and medium.name in load.names), ())
    return any(a != b and a in members and b in members for a in before for b in after)


def _size(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count / 1e3:.3g} kB"
