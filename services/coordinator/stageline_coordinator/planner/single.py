"""The best stages for one model, given what the others take, by widening label searches; with a proven bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .labels import TIE, Found, Search, Step
from .parts import NO_CODEC
from .relax import Costs
from .solution import StageAssignment
from .space import Space

WIDTHS = (60, 1000, 20_000)
PAIRS = 1_000_000_000  # of labels and stages that one search may look at: some ten seconds
BISECTIONS = 6
PRICINGS = 30
QUICK_PRICINGS = 4


@dataclass(frozen=True)
class Effort:
    """How far to go: labels per level, one search after the other while there is time; whether to ask `chain` too.

    `work`: how much the beam may do, see there.
    """

    widths: tuple[int, ...] = WIDTHS
    out_of_time: Callable[[], bool] = lambda: False
    chain: bool = True
    work: float = math.inf

    def up_to(self, searches: int) -> Effort:
        """Only the first, narrower searches."""
        return replace(self, widths=self.widths[:searches])


def assignments(space: Space, steps: Sequence[Step]) -> tuple[StageAssignment, ...]:
    """Steps by name; without figures, which are the evaluation's."""
    ids = [node.id for node in space.problem.nodes]
    return tuple(
        StageAssignment(
            blocks=(one.start, one.end),
            nodes=tuple(ids[node] for node in one.nodes),
            codec=space.codecs[one.codec].name if one.codec else NO_CODEC,
        )
        for one in steps
    )


def peak_costs(space: Space) -> Costs:
    """The busiest node, port or link that the model uses, other models' use of it included."""
    return Costs(space.stage_s, space.links_s, space.loads_s, additive=False)


def smallest_peak(space: Space, effort: Effort, known: Found) -> Found:
    """The smallest bottleneck, media aside; `known` is what is known: a plan or none, and a bound.

    Between bound and plan the target is bisected: below a target that is hard to reach few labels survive.
    """
    if effort.out_of_time():
        return known
    search = Search(space, peak_costs(space), out_of_time=effort.out_of_time)
    best = Found(known.steps, known.value, min(known.value, max(known.bound, search.bound)))
    for width in _widths(space, effort):
        hopeless = best.bound
        for turn in range(BISECTIONS):
            if settled(best) or hopeless >= best.value or effort.out_of_time():
                break
            target = best.value if turn == 0 or math.isinf(best.value) else (hopeless + best.value) / 2
            found = search.run(target, width, effort.out_of_time)
            if found.steps is None and best.steps is None:
                found = search.run(target, width, effort.out_of_time, thrifty=True)
            best = _better(best, found)
            if found.steps is None:
                hopeless = target
    return best


def least(space: Space, costs: Costs, limit_s: float, effort: Effort, known: Found) -> Found:
    """The plan with the smallest sum within a limit on every stage and hop."""
    if effort.out_of_time():
        return known
    pricings = PRICINGS if len(effort.widths) > 1 else QUICK_PRICINGS
    search = Search(space, costs, limit_s, pricings, effort.out_of_time)
    best = Found(known.steps, known.value, min(known.value, max(known.bound, search.bound)))
    for width in _widths(space, effort):
        if settled(best) or effort.out_of_time():
            break
        best = _better(best, search.run(best.value, width, effort.out_of_time))
        if best.steps is None and not settled(best):
            best = _better(best, search.run(best.value, width, effort.out_of_time, thrifty=True))
    return best


def settled(found: Found) -> bool:
    """Whether nothing better can be found."""
    return found.bound >= found.value * (1 - 2 * TIE)


def _widths(space: Space, effort: Effort) -> list[int]:
    """Those of the effort, but none so wide that one search would take too long."""
    levels = min(space.blocks, len(space.problem.nodes))
    most = max(PAIRS // (levels * space.stage_s.size // (space.blocks + 1) + 1), effort.widths[0])
    return list(dict.fromkeys(min(width, most) for width in effort.widths))


def _better(best: Found, found: Found) -> Found:
    proven = max(best.bound, found.bound)
    if found.steps is not None and found.value < best.value:
        return Found(found.steps, found.value, min(proven, found.value))
    return Found(best.steps, best.value, min(proven, best.value))
