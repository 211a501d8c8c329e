"""What makes stages a plan, for the checker: coverage, nodes, links, codecs, memory, and what has to be fetched."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

from .check_reading import Case, Chain, Stage, names

Spans = dict[str, set[tuple[int, int]]]


def model_faults(case: Case, chain: Chain, stages: list[Stage]) -> Iterator[str]:
    """Why these stages cannot serve the model."""
    index, used, reached = names(case.boxes), set[str](), 0
    for number, stage in enumerate(stages):
        if stage.start != reached:
            yield f"{stage.where}.blocks: starts at {stage.start}, but {reached} comes next"
        reached = stage.end
        yield from _stage_faults(case, chain, stage, number)
        for node in stage.nodes:
            if node in used:
                yield f"{stage.where}.nodes: {node} serves the model already"
            used.add(node)
    if reached != len(chain.weights):
        yield f"stages.{chain.name}: ends at block {reached} of {len(chain.weights)}"
    if used <= index.keys():
        yield from _link_faults(case, stages)


def _stage_faults(case: Case, chain: Chain, stage: Stage, number: int) -> Iterator[str]:
    index = names(case.boxes)
    if not 1 <= len(stage.nodes) <= chain.max_replicas:
        yield f"{stage.where}.nodes: {len(stage.nodes)} of them, but 1 to {chain.max_replicas} may be"
    if stage.codec != "none" and number == 0:
        yield f"{stage.where}.codec: what enters the first stage is never coded"
    elif stage.codec != "none" and stage.codec not in chain.codecs:
        yield f"{stage.where}.codec: '{stage.codec}' is unknown, or its error is above the model's tolerance"
    if number == 0 and chain.source is not None and stage.nodes != [chain.source]:
        yield f"{stage.where}.nodes: the first stage belongs on {chain.source}, the model's source"
    for node in stage.nodes:
        if node not in index:
            yield f"{stage.where}.nodes: there is no node {node}"
        elif case.boxes[index[node]].excluded:
            yield f"{stage.where}.nodes: {node} is excluded"
        elif any(math.isinf(row[index[node]]) for row in chain.seconds[stage.start : stage.end]):
            yield f"{stage.where}.nodes: {node} cannot run one of the blocks"


def _link_faults(case: Case, stages: list[Stage]) -> Iterator[str]:
    index = names(case.boxes)
    for port, stage in (("ingress", stages[0]), ("egress", stages[-1])):
        for node in stage.nodes:
            if case.ports[port][0][index[node]] == 0:
                yield f"{stage.where}.nodes: no {port} at {node}"
    for before, stage in itertools.pairwise(stages):
        for a in before.nodes:
            for b in stage.nodes:
                if a != b and case.bandwidth[index[a]][index[b]] == 0:
                    yield f"{stage.where}.nodes: no link from {a} to {b}"


def required_faults(case: Case, placed: Mapping[str, list[Stage]]) -> Iterator[str]:
    """Required nodes that host nothing, or nothing of the model that requires them."""
    used = {node for stages in placed.values() for stage in stages for node in stage.nodes}
    for i, box in enumerate(case.boxes):
        if box.required and box.name not in used:
            yield f"nodes[{i}].required: {box.name} hosts nothing"
    for name in placed.keys() & case.chains.keys():
        own = {node for stage in placed[name] for node in stage.nodes}
        for node in case.chains[name].required:
            if node not in own:
                yield f"models.{name}.required: {node} hosts nothing of it"


def memory_faults(case: Case, placed: Mapping[str, list[Stage]]) -> Iterator[str]:
    """Nodes that cannot hold what they are to serve, alone or, if they have to load it, beside what they serve now."""
    running = {
        name: [(start, end, node) for start, end, nodes in stages for node in nodes]
        for name, stages in case.current.items()
    }
    planned = {
        name: [(stage.start, stage.end, node) for stage in stages for node in stage.nodes]
        for name, stages in placed.items()
    }
    for i, box in enumerate(case.boxes):
        new, now = _spans(planned, box.name), _spans(running, box.name)
        need = box.base + _held(case, new)
        both = box.base + _held(case, {name: new.get(name, set()) | now.get(name, set()) for name in {*new, *now}})
        if new and need > box.memory:
            yield f"nodes[{i}].memory_bytes: {box.name} has {box.memory}, but would need {need}"
        elif any(runs - now.get(name, set()) for name, runs in new.items()) and both > box.memory:
            yield f"nodes[{i}].memory_bytes: {box.name} has {box.memory}, but would need {both} during the move"


def expected_moves(case: Case, placed: Mapping[str, list[Stage]]) -> dict[tuple[str, str], int]:
    """Bytes by (model, node) of the weights that the node lacks, each once; none where no plan runs."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    for name, stages in placed.items() if case.current else ():
        held: dict[str, set[int]] = defaultdict(set)
        for start, end, nodes in case.current.get(name, []):
            for node in nodes:
                held[node].update(range(start, end))
        for stage in stages:
            for node in stage.nodes:
                both, load = held[node] | set(range(stage.start, stage.end)), case.chains[name].load
                found[name, node] += load(both) - load(held[node])
    return {key: count for key, count in found.items() if count}


def _spans(stages: Mapping[str, list[tuple[int, int, str]]], node: str) -> Spans:
    found: Spans = {}
    for name, placed in stages.items():
        here = {(start, end) for start, end, where in placed if where == node}
        if here:
            found[name] = here
    return found


def _held(case: Case, spans: Spans) -> int:
    """Bytes of these stages: weights of a block once, what blocks share once, workspace and buffers of every stage."""
    total = 0
    for name, here in spans.items():
        chain = case.chains[name]
        blocks = {block for start, end in here for block in range(start, min(end, len(chain.weights)))}
        total += chain.load(blocks)
        total += sum(max(chain.workspaces[start:end], default=0) + chain.buffer for start, end in here)
    return total
