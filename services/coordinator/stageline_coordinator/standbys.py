"""Where standbys are best: stages loaded on other nodes, so that a death leaves every stage served. Pure.

A standby has its place in what a node's own stages leave of its memory, reckoned as the planner does. All standbys are
loaded at once, so those of one node are added up. First as many stages as possible are covered; then a standby goes
where the cluster would be fastest after the death: by the bottleneck of the plan with it in the place of the dead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stageline.wording import listed

from .bottleneck import Problem, bottleneck_s
from .placement import Placement
from .wanted import SHOWN, Barred

AS_GOOD = 1.1
"""A bottleneck so many times that of the best counts as good: one that is loaded already stays."""

TRIES = 2000
"""Nodes of the search for a placement that covers everything; beyond, the best so far is taken."""

Spot = tuple[str, int]
"""A stage of the plan: model, and number of its stage."""


@dataclass(frozen=True)
class Question:
    """`problem` has the nodes that live, `placement` their plan; all else by stage or node.

    `sizes`: what each stage is charged; `free`: bytes that the nodes which may hold standbys have left beside their own
    stages; `loaded`: who holds a stage already; `barred`: who could not load it lately; `hosts`: machine of each node;
    `unwanted`: whom users keep off a stage.
    """

    problem: Problem
    placement: Placement
    sizes: Mapping[Spot, int]
    free: Mapping[str, int]
    loaded: frozenset[tuple[str, Spot]] = frozenset()
    barred: frozenset[tuple[str, Spot]] = frozenset()
    hosts: Mapping[str, str] = field(default_factory=dict)
    unwanted: Mapping[Spot, Barred] = field(default_factory=dict)


@dataclass(frozen=True)
class Standbys:
    """`nodes` of each stage's standbys, best first; `short` says why there are fewer than were asked for."""

    nodes: Mapping[Spot, tuple[str, ...]] = field(default_factory=dict)
    short: Mapping[Spot, str] = field(default_factory=dict)


def choose(question: Question, deaths: int) -> Standbys:
    """So many standbys for each stage that it is served after `deaths` at once, as far as there is room."""
    nodes: dict[Spot, tuple[str, ...]] = dict.fromkeys(question.sizes, ())
    free = dict(question.free)
    for served in range(2, 2 + deaths):
        lacking = [spot for spot in nodes if len(_serving(question, spot)) + len(nodes[spot]) < served]
        for spot, node in _assign(question, lacking, nodes, free).items():
            nodes[spot] = (*nodes[spot], node)
            free[node] -= question.sizes[spot]
    short = {
        spot: _why(question, spot, found, free)
        for spot, found in nodes.items()
        if len(_serving(question, spot)) + len(found) < 1 + deaths
    }
    return Standbys(nodes, short)


def _serving(question: Question, spot: Spot) -> tuple[str, ...]:
    model, number = spot
    return question.placement[model][number].nodes


def _assign(
    question: Question, spots: Sequence[Spot], taken: Mapping[Spot, tuple[str, ...]], free: Mapping[str, int]
) -> dict[Spot, str]:
    """A node for as many of these as possible, the largest first: a search in depth, the best choices first."""
    options = {spot: _options(question, spot, taken[spot]) for spot in spots}
    order = sorted(spots, key=lambda spot: (-question.sizes[spot], spot))
    search = _Search(question.sizes, options, order, dict(free))
    search.run(0)
    return search.best


@dataclass
class _Search:
    sizes: Mapping[Spot, int]
    options: Mapping[Spot, Mapping[str, tuple[int, float]]]
    order: Sequence[Spot]
    free: dict[str, int]
    chosen: dict[Spot, str] = field(default_factory=dict)
    best: dict[Spot, str] = field(default_factory=dict)
    tries: int = 0

    def run(self, depth: int) -> bool:
        """Whether the search is over: everything is covered, or it took too long."""
        self.tries += 1
        if len(self.chosen) > len(self.best):
            self.best = dict(self.chosen)
        if depth == len(self.order):
            return len(self.best) == len(self.order) or self.tries > TRIES
        if len(self.chosen) + len(self.order) - depth <= len(self.best):
            return self.tries > TRIES  # nothing more can be covered on this way
        spot = self.order[depth]
        for node in self._fitting(spot):
            self.chosen[spot] = node
            self.free[node] -= self.sizes[spot]
            over = self.run(depth + 1)
            self.free[node] += self.sizes[spot]
            del self.chosen[spot]
            if over:
                return True
        return self.run(depth + 1)

    def _fitting(self, spot: Spot) -> list[str]:
        ranks = self.options[spot]
        fitting = [node for node in ranks if self.free[node] >= self.sizes[spot]]
        held = list(self.chosen.values())
        return sorted(fitting, key=lambda node: (ranks[node][0], held.count(node), ranks[node][1]))


def _options(question: Question, spot: Spot, taken: tuple[str, ...]) -> dict[str, tuple[int, float]]:
    """Nodes that could serve the stage, with a class (smaller is better) and the bottleneck that results, in seconds.

    A node on a machine that serves the stage already comes last: what kills one is likely to kill both.
    """
    here = (*_serving(question, spot), *taken)
    after = {node: _after_s(question, spot, node) for node in _round(question, spot) if node not in here}
    after = {node: seconds for node, seconds in after.items() if seconds < math.inf}
    best = min(after.values(), default=0.0)
    machines = {question.hosts.get(node, node) for node in here}
    return {
        node: (
            4 * (question.hosts.get(node, node) in machines)
            + 2 * (seconds > AS_GOOD * best)
            + ((node, spot) not in question.loaded),
            seconds,
        )
        for node, seconds in after.items()
        if (node, spot) not in question.barred
    }


def _round(question: Question, spot: Spot) -> list[str]:
    """The nodes, beginning behind the stage's own: where they are equal each stands by for the one before it."""
    nodes, own = list(question.free), _serving(question, spot)
    start = nodes.index(own[0]) if own[0] in nodes else 0
    return nodes[start:] + nodes[:start]


def _after_s(question: Question, spot: Spot, node: str) -> float:
    """The bottleneck with the stage on `node` alone."""
    model, number = spot
    slots = list(question.placement[model])
    slots[number] = replace(slots[number], nodes=(node,))
    return bottleneck_s(question.problem, {**question.placement, model: tuple(slots)})


def _why(question: Question, spot: Spot, found: tuple[str, ...], free: Mapping[str, int]) -> str:
    here = (*_serving(question, spot), *found)
    others = [node for node in question.free if node not in here]
    if not others:
        away = [node["id"] for node in question.problem["nodes"] if node["id"] not in here]
        be = "is" if len(away) == 1 else "are"
        why = f"no other worker is usable: {listed(away, SHOWN)} {be} drained, about to leave, or failed lately"
        return why if away else "there is no other worker"
    unwanted = question.unwanted.get(spot, Barred(spot[0])).among(others)
    if unwanted.covers(others):
        return unwanted.why("every other worker")
    said = unwanted.why()
    return _lacking(question, spot, others, free) + (f"; {said}" if said else "")


def _lacking(question: Question, spot: Spot, others: Sequence[str], free: Mapping[str, int]) -> str:
    """Why none of `others` can have it."""
    able = [node for node in others if _after_s(question, spot, node) < math.inf]
    if not able:
        return "no other worker can run its blocks, or be reached by their neighbours"
    barred = [node for node in able if (node, spot) in question.barred]
    if barred and all(free[node] < question.sizes[spot] for node in able if node not in barred):
        return f"{', '.join(sorted(barred))} failed to load it"
    need, most = question.sizes[spot], max(0, *(free[node] for node in able), 0)
    return f"it takes {_mb(need)} MB, and no other worker has more than {_mb(most)} MB left"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.0f}" if nbytes >= 10_000_000 else f"{nbytes / 1e6:.1f}"


def spots(placement: Placement) -> Iterator[Spot]:
    """Every stage of a plan."""
    for model, slots in placement.items():
        for number in range(len(slots)):
            yield model, number
