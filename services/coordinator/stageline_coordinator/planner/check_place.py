"""The checker's own search for a plan where a solution says that there is none: depth first, within a budget.

One node for each stage is enough: whatever replicas can serve, one of them can, with fewer links and less memory. Only
required nodes may need more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .check_reading import Case, Chain, Stage
from .check_rules import memory_faults, required_faults

MOST_STEPS = 20_000
"""Stages that are tried: some seconds."""


@dataclass(frozen=True)
class Placing:
    """`stages` None: none was found for the model, and if `proven` there are none."""

    stages: list[Stage] | None
    proven: bool


def place(case: Case, chain: Chain, others: Mapping[str, list[Stage]]) -> Placing:
    """Stages for one model beside those of the others; with them every required node is used."""
    search = _Search(case, chain, others)
    stages = search.run([])
    required = bool(chain.required) or any(box.required for box in case.boxes)
    needs_replicas = chain.max_replicas > 1 and required
    return Placing(stages, stages is None and search.steps < MOST_STEPS and not needs_replicas)


def too_little(case: Case) -> bool:
    """Whether the memory of all nodes together is too little for all models, wherever links are.

    Every node that is used gives at least the smallest workspace and buffer away, and each model's largest comes once.
    """
    if not case.chains:
        return False
    small = min(min(chain.workspaces) + chain.buffer for chain in case.chains.values())
    room = sum(max(0, box.memory - box.base - small) for box in case.boxes if not box.excluded)
    return room < sum(chain.need(0, len(chain.weights)) - small for chain in case.chains.values())


class _Search:
    def __init__(self, case: Case, chain: Chain, others: Mapping[str, list[Stage]]) -> None:
        self._case, self._chain, self._others = case, chain, others
        self._failed: set[tuple[int, int, frozenset[str]]] = set()
        self.steps = 0

    def run(self, stages: list[Stage]) -> list[Stage] | None:
        """A whole plan that begins so."""
        start = stages[-1].end if stages else 0
        if start == len(self._chain.weights):
            return stages if self._is_whole(stages) else None
        state = (start, self._at(stages), frozenset(stage.nodes[0] for stage in stages))
        if state in self._failed:
            return None
        for stage in self._next(start, stages):
            found = self.run([*stages, stage])
            if found is not None or self.steps >= MOST_STEPS:
                return found
        self._failed.add(state)
        return None

    def _at(self, stages: list[Stage]) -> int:
        names = [box.name for box in self._case.boxes]
        return names.index(stages[-1].nodes[0]) if stages else -1

    def _is_whole(self, stages: list[Stage]) -> bool:
        if self._case.ports["egress"][0][self._at(stages)] == 0:
            return False
        return not any(required_faults(self._case, {**self._others, self._chain.name: stages}))

    def _next(self, start: int, stages: list[Stage]) -> Iterator[Stage]:
        """Every stage that may follow, long ones first."""
        case, used, last = self._case, {stage.nodes[0] for stage in stages}, self._at(stages)
        rate = case.bandwidth[last] if stages else case.ports["ingress"][0]
        for i, box in enumerate(case.boxes):
            pinned = not stages and self._chain.source not in (None, box.name)
            if box.excluded or box.name in used or rate[i] == 0 or pinned:
                continue
            for end in range(self._runs_to(start, i), start, -1):
                self.steps += 1
                stage = Stage(start, end, [box.name], "none", None, None, "")
                if self.steps >= MOST_STEPS:
                    return
                if not any(memory_faults(case, {**self._others, self._chain.name: [*stages, stage]})):
                    yield stage

    def _runs_to(self, start: int, node: int) -> int:
        end = start
        while end < len(self._chain.weights) and math.isfinite(self._chain.seconds[end][node]):
            end += 1
        return end
