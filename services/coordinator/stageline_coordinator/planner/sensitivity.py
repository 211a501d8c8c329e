"""What would make a plan better, and by how much: the problem is solved again with one thing changed at a time.

A gain is exact where both plans are proven to be optimal. Elsewhere a change that only relaxes the problem is never
said to cost anything: the old plan is still there to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from . import changes
from .changes import Change
from .evaluate import Evaluation, Stages, evaluate
from .feasible import held_bytes
from .loads import LINK, MEDIUM, Load, loads
from .problem import THROUGHPUT, Problem
from .solution import INFEASIBLE, Solution

NOTHING = 1e-4
"""A relative gain below this is none: it would be lost in the error of any measured second."""

Solver = Callable[[Problem], Solution]


@dataclass(frozen=True)
class Outcome:
    """A plan and what it reaches. `solved`: every model is placed."""

    stages: Stages
    found: Evaluation
    solved: bool

    @property
    def bottleneck(self) -> Load | None:
        """What is busy longest; None where nothing is placed, or nothing takes time."""
        return next(iter(loads(self.found.busy)), None)


@dataclass(frozen=True)
class Gain:
    """What a change does to the best plan.

    `gain`: for throughput the relative growth of requests per second, for other objectives the part of the seconds
    that is saved; None where there is no plan before or after it. `needs_bytes`: for more memory, what the new plan
    takes beyond the old size.
    """

    change: Change
    outcome: Outcome
    gain: float | None
    needs_bytes: int = 0


def judged(problem: Problem, stages: Stages, status: str) -> Outcome:
    """A given plan on a problem."""
    found = evaluate(problem, stages)
    return Outcome(stages, found, status != INFEASIBLE and not found.faults)


def best(problem: Problem, solve: Solver, kept: Outcome | None = None) -> Outcome:
    """The solver's plan, or `kept` if that is at least as good on this problem."""
    solution = solve(problem)
    fresh = judged(problem, solution.stages, solution.status)
    if kept is None or not kept.solved:
        return fresh
    old = judged(problem, kept.stages, "")
    if not old.solved:
        return fresh
    return fresh if fresh.solved and fresh.found.objective_s < old.found.objective_s else old


def at_rest(problem: Problem) -> Problem:
    """The same without a running plan, which would make the solver prefer it."""
    return replace(problem, current={})


def gain(problem: Problem, before: Outcome, change: Change, solve: Solver) -> Gain:
    """Solve with the change."""
    after = best(change.problem, solve, before if change.relaxes else None)
    value = relative(problem, before.found.objective_s, after.found.objective_s)
    if not change.relaxes:
        value = min(0.0, value)  # a better plan that does without the node could be had with it, too
    needs = _needed(problem, change, after) if change.kind == changes.MEMORY else 0
    return Gain(change, after, value if before.solved and after.solved else None, needs)


def relative(problem: Problem, before_s: float, after_s: float) -> float:
    """How much better the second is; 0 where nothing takes time."""
    if problem.objective == THROUGHPUT:
        return before_s / after_s - 1 if after_s > 0 else 0.0
    return 1 - after_s / before_s if before_s > 0 else 0.0


def helps(found: Gain, before: Outcome) -> bool:
    """Whether the change is worth naming: a better plan, or one where there was none."""
    return found.gain > NOTHING if found.gain is not None else found.outcome.solved and not before.solved


def candidates(problem: Problem, before: Outcome, useless: Collection[str]) -> list[Change]:
    """Changes of one part, except kinds that are `useless`; one of each kind in turn, each kind's likeliest first."""
    groups = _by_load(problem, before)
    order = changes.by_speed(problem)
    kinds: list[list[Change]] = [
        [changes.added(problem, node) for node in dict.fromkeys((order[0], order[len(order) // 2]))],
        [changes.faster(problem, group) for group in groups],
        list(_wires(problem, before)),
        [changes.network(problem, group) for group in groups] if len(problem.nodes) > 1 else [],
        [changes.memory(problem, group) for group in groups],
        [changes.dropped(problem, group) for group in _losable(problem, before, groups)],
    ]
    in_turn = (change for turn in zip_longest(*kinds) for change in turn if change is not None)
    parts = {changes.WIRE: changes.NETWORK, changes.GATEWAY: changes.NETWORK, changes.MEDIUM: changes.NETWORK}
    return [change for change in in_turn if parts.get(change.kind, change.kind) not in useless]


def _losable(problem: Problem, before: Outcome, groups: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
    """Classes of nodes that serve something, and are no model's source."""
    pinned = {model.source for model in problem.models}
    for group in groups if before.solved else ():
        name = problem.nodes[group[0]].id
        if name in before.found.busy.nodes and name not in pinned:
            yield group


def _wires(problem: Problem, before: Outcome) -> Iterator[Change]:
    """Links and media in use, the busiest first; and the way to the gateway."""
    seen: set[frozenset[str]] = set()
    for load in loads(before.found.busy):
        if load.kind == LINK and frozenset(load.names) not in seen:
            seen.add(frozenset(load.names))
            yield changes.wire(problem, *load.names)
        elif load.kind == MEDIUM:
            yield changes.medium(problem, load.names[0])
    if problem.ingress or problem.egress:
        yield changes.gateway(problem)


def _by_load(problem: Problem, before: Outcome) -> list[list[int]]:
    """Classes of nodes; the one that holds the busiest node first, within each the busiest first."""
    busy = [before.found.busy.nodes.get(node.id, 0.0) for node in problem.nodes]
    groups = (sorted(group, key=lambda i: -busy[i]) for group in changes.classes(problem))
    return sorted(groups, key=lambda group: -busy[group[0]])


def _needed(problem: Problem, change: Change, after: Outcome) -> int:
    """Bytes that the plan takes beyond what the changed nodes have, summed over them."""
    found = 0
    for node in problem.nodes:
        if node.id not in (change.names or (node.id,)):
            continue
        hosted = {
            name: [stage.blocks for stage in stages if node.id in stage.nodes] for name, stages in after.stages.items()
        }
        if any(hosted.values()):
            found += max(0, node.base_bytes + held_bytes(problem.models, hosted) - node.memory_bytes)
    return found
