"""What could be changed about a cluster, one thing at a time: problems that differ from a given one in it.

A change for one of several interchangeable nodes (equal in everything, the links to all others included) stands for
all of them: exchanging two of them leaves the problem as it was, so the gain is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from stageline_coordinator.limits import MAX_BYTES

from .alike import alike
from .parts import Links, Node, Port
from .problem import Problem

FACTOR = 2
"""How much faster or larger the changed part becomes."""

FASTER, MEMORY, NETWORK, WIRE, GATEWAY, MEDIUM, ADDED, DROPPED = (
    "faster", "memory", "network", "wire", "gateway", "medium", "added", "dropped",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """`problem` has it. `names`: the node, both ends of a wire, or the medium; none: all of that kind at once.

    `alike`: other nodes for which the same change gains the same.
    """

    kind: str
    names: tuple[str, ...]
    problem: Problem
    alike: tuple[str, ...] = ()

    @property
    def relaxes(self) -> bool:
        """Whether every plan stays as good as it was at least."""
        return self.kind != DROPPED


def classes(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Indices of nodes in classes that are interchangeable, in the order of their first members."""
    nodes, links = range(len(problem.nodes)), problem.links
    found = alike(nodes, [_traits(problem, node) for node in nodes], links)
    if links is None:
        return found
    homes = [next(i for i, group in enumerate(found) if node in group) for node in nodes]
    return alike(nodes, homes, Links(links.latency_s, links.latency_s))


def _traits(problem: Problem, node: int) -> Hashable:
    """All that the problem says of a node except its name and its links to others."""
    box = problem.nodes[node]
    ports = (port for port in (problem.ingress, problem.egress) if port)
    return (
        replace(box, id=""),
        box.id if any(model.source == box.id for model in problem.models) else "",
        tuple(box.id in model.required for model in problem.models),
        tuple(block.seconds[node] for model in problem.models for block in model.blocks),
        tuple((port.bandwidth_bytes_per_s[node], port.latency_s[node]) for port in ports),
        tuple(box.id in medium.nodes for medium in problem.media),
    )


def everything(problem: Problem) -> list[Change]:
    """All nodes faster, all of the network faster, all memories larger: where one gains nothing, no part of it does."""
    nodes = range(len(problem.nodes))
    found = [Change(FASTER, (), _faster(problem, nodes))]
    if problem.links or problem.ingress or problem.egress or problem.media:
        media = tuple(replace(one, bandwidth_bytes_per_s=FACTOR * one.bandwidth_bytes_per_s) for one in problem.media)
        found.append(Change(NETWORK, (), replace(_network(problem, lambda a, b: True), media=media)))
    return [*found, Change(MEMORY, (), _memory(problem, nodes))]


def faster(problem: Problem, group: Sequence[int]) -> Change:
    """The first node of the class computes, sends and receives faster."""
    return _of(FASTER, problem, group, _faster(problem, group[:1]))


def memory(problem: Problem, group: Sequence[int]) -> Change:
    """The first node of the class has more memory."""
    return _of(MEMORY, problem, group, _memory(problem, group[:1]))


def network(problem: Problem, group: Sequence[int]) -> Change:
    """All links of the first node of the class are faster, those to the gateway included."""
    return _of(NETWORK, problem, group, _network(problem, lambda a, b: group[0] in (a, b)))


def wire(problem: Problem, a: str, b: str) -> Change:
    """The link between two nodes is faster, in both directions."""
    index = problem.node_index()
    ends = {index[a], index[b]}
    return Change(WIRE, (a, b), _network(problem, lambda x, y: {x, y} == ends))


def gateway(problem: Problem) -> Change:
    """All links between gateway and nodes are faster."""
    return Change(GATEWAY, (), _network(problem, lambda a, b: None in (a, b)))


def medium(problem: Problem, name: str) -> Change:
    """A shared medium is faster."""
    media = (
        replace(one, bandwidth_bytes_per_s=FACTOR * one.bandwidth_bytes_per_s) if one.name == name else one
        for one in problem.media
    )
    return Change(MEDIUM, (name,), replace(problem, media=tuple(media)))


def dropped(problem: Problem, group: Sequence[int]) -> Change:
    """The first node of the class is gone."""
    nodes = tuple(
        replace(node, excluded=True, required=False) if i == group[0] else node for i, node in enumerate(problem.nodes)
    )
    gone = problem.nodes[group[0]].id
    models = (replace(m, required=tuple(node for node in m.required if node != gone)) for m in problem.models)
    return _of(DROPPED, problem, group, replace(problem, nodes=nodes, models=tuple(models)))


def added(problem: Problem, node: int) -> Change:
    """One more node like that one; between the two, a link as that node has them in the median."""
    taken = {one.id for one in problem.nodes}
    original = problem.nodes[node]
    name = next(name for i in range(len(taken) + 1) if (name := f"new-{i}") not in taken)
    copy = replace(original, id=name, excluded=False, required=False)
    models = (
        replace(
            model,
            blocks=tuple(replace(block, seconds=(*block.seconds, block.seconds[node])) for block in model.blocks),
        )
        for model in problem.models
    )
    media = (replace(one, nodes=(*one.nodes, name)) if original.id in one.nodes else one for one in problem.media)
    links = problem.links and Links(
        _grown(problem.links.bandwidth_bytes_per_s, node), _grown(problem.links.latency_s, node)
    )
    grown = replace(
        problem,
        nodes=(*problem.nodes, copy),
        models=tuple(models),
        links=links,
        ingress=_grown_port(problem.ingress, node),
        egress=_grown_port(problem.egress, node),
        media=tuple(media),
    )
    return Change(ADDED, (original.id,), grown)


def by_speed(problem: Problem) -> list[int]:
    """Indices of the nodes, the fastest first: those that run most blocks, in the least time."""

    def slowness(node: int) -> tuple[int, float]:
        seconds = [block.seconds[node] for model in problem.models for block in model.blocks]
        return sum(math.isinf(one) for one in seconds), math.fsum(one for one in seconds if not math.isinf(one))

    return sorted(range(len(problem.nodes)), key=slowness)


def _of(kind: str, problem: Problem, group: Sequence[int], changed: Problem) -> Change:
    first, *others = (problem.nodes[i].id for i in group)
    return Change(kind, (first,), changed, tuple(others))


def _faster(problem: Problem, chosen: Collection[int]) -> Problem:
    def quick(node: Node) -> Node:
        return replace(node, hop_s=node.hop_s / FACTOR, byte_s=node.byte_s / FACTOR)

    models = (
        replace(
            model,
            blocks=tuple(
                replace(block, seconds=tuple(s / FACTOR if i in chosen else s for i, s in enumerate(block.seconds)))
                for block in model.blocks
            ),
        )
        for model in problem.models
    )
    nodes = (quick(node) if i in chosen else node for i, node in enumerate(problem.nodes))
    return replace(problem, nodes=tuple(nodes), models=tuple(models))


def _memory(problem: Problem, chosen: Collection[int]) -> Problem:
    nodes = (
        replace(node, memory_bytes=min(MAX_BYTES, FACTOR * node.memory_bytes)) if i in chosen else node
        for i, node in enumerate(problem.nodes)
    )
    return replace(problem, nodes=tuple(nodes))


def _network(problem: Problem, wanted: Callable[[int | None, int | None], bool]) -> Problem:
    """Faster where `wanted(from, to)`, by index; None is the gateway. Latencies stay."""

    def row(origin: int | None, rates: Sequence[float]) -> tuple[float, ...]:
        return tuple(FACTOR * rate if wanted(origin, to) else rate for to, rate in enumerate(rates))

    links = problem.links and replace(
        problem.links,
        bandwidth_bytes_per_s=tuple(row(a, rates) for a, rates in enumerate(problem.links.bandwidth_bytes_per_s)),
    )
    ports = (
        port and replace(port, bandwidth_bytes_per_s=row(None, port.bandwidth_bytes_per_s))
        for port in (problem.ingress, problem.egress)
    )
    ingress, egress = ports
    return replace(problem, links=links, ingress=ingress, egress=egress)


def _grown(matrix: Sequence[Sequence[float]], node: int) -> tuple[tuple[float, ...], ...]:
    """A copy of the node's row and column is added; between the two, the median of that row."""
    others = [value for to, value in enumerate(matrix[node]) if to != node]
    between = median(others) if others else matrix[node][node]
    rows = [(*row, between if a == node else row[node]) for a, row in enumerate(matrix)]
    return (*rows, (*(between if b == node else value for b, value in enumerate(matrix[node])), matrix[node][node]))


def _grown_port(port: Port | None, node: int) -> Port | None:
    return port and Port(
        (*port.bandwidth_bytes_per_s, port.bandwidth_bytes_per_s[node]), (*port.latency_s, port.latency_s[node])
    )
