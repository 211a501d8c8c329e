"""The best choice of one plan per model out of lists of plans: depth first, the last model's plans all at once.

What plans take adds up: seconds of nodes, links, ports and media, bytes of memory, and for the weighted objective what
items wait for each other, pair by pair. So every plan is a row of numbers, and sums of rows decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .costs import share_of, weights
from .evaluate import Evaluation, evaluate
from .feasible import Run, held_bytes, running_on
from .labels import TIE
from .parts import Model
from .problem import THROUGHPUT, Problem
from .solution import StageAssignment
from .space import Floats

Bools = NDArray[np.bool_]
Plan = tuple[StageAssignment, ...]
Stages = dict[str, Plan]

WORK = 100_000_000
"""Cells that one search may add up: about half a second."""


@dataclass(frozen=True)
class Combined:
    """`stages` None: nothing below the target; `complete`: then there is nothing, else these are the best."""

    stages: Stages | None
    complete: bool


def combine(problem: Problem, pools: Mapping[str, Sequence[Plan]], target: float, stop: Callable[[], bool]) -> Combined:
    """The best joint plan below the target with a plan of each model's pool; every model has one.

    `target` is in the problem's objective.
    """
    if not all(pools[model.name] for model in problem.models):
        return Combined(None, complete=True)
    found = [_Pool(problem, model, pools[model.name]) for model in problem.models]
    search = _Search(problem, sorted(found, key=lambda pool: len(pool.value)), target, stop)
    search.extend([])
    return Combined(search.best, complete=not search.cut_short)


class _Pool:
    """The plans of one model, each alone. `value[p]`: its part of the objective; `busy[p, r]`: seconds by resource.

    By node n: `new[p, n]` bytes of the plan, `both[p, n]` with what runs now, `now[n]` that alone; `hosts`, `loads`
    whether it has a stage there, one to be loaded; `part` the model's items, `load` the seconds they take there.
    """

    def __init__(self, problem: Problem, model: Model, plans: Sequence[Plan]) -> None:
        self.model, self.plans = model, plans
        self.share, self.weight = share_of(problem, model), weights(problem)[model.name]
        figures = [evaluate(problem, {model.name: plan}) for plan in plans]
        self.busy = _busy(problem, figures)
        cost = [found.models[model.name] for found in figures]
        each = [found.bottleneck_s for found in figures]
        plain = problem.objective == THROUGHPUT
        self.value = np.array(each if plain else [self.weight * one.latency_s for one in cost])
        index, size = problem.node_index(), (len(plans), len(problem.nodes))
        self.part, self.load = np.zeros(size), np.zeros(size)
        for p, one in enumerate(cost):
            for stage in one.stages:
                for node, part in stage.shares.items():
                    self.part[p, index[node]] = part
                    self.load[p, index[node]] = self.share * part * stage.cost_s[node] if part else 0.0
        self._hold(problem)

    def _hold(self, problem: Problem) -> None:
        size = (len(self.plans), len(problem.nodes))
        self.new, self.both = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        self.hosts, self.loads = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        self.now = np.zeros(size[1], dtype=np.int64)
        for n, node in enumerate(problem.nodes):
            now = {self.model.name: running_on(problem, node.id).get(self.model.name, [])}
            self.now[n] = held_bytes((self.model,), now)
            known: dict[Run, tuple[int, int, bool]] = {}
            self.both[:, n] = self.now[n]
            for p, plan in enumerate(self.plans):
                run = next((stage.blocks for stage in plan if node.id in stage.nodes), None)
                if run is None:
                    continue
                if run not in known:
                    new = {self.model.name: [run]}
                    bytes_ = held_bytes((self.model,), new), held_bytes((self.model,), new, now)
                    known[run] = (*bytes_, run not in now[self.model.name])
                self.new[p, n], self.both[p, n], self.loads[p, n] = known[run]
                self.hosts[p, n] = True


def _busy(problem: Problem, figures: Sequence[Evaluation]) -> Floats:
    """`[p, r]`: nodes, links in both directions, ingress and egress of nodes, media."""
    ids = [node.id for node in problem.nodes]
    media = [medium.name for medium in problem.media]
    rows = [
        [
            *(found.busy.nodes.get(a, 0.0) for a in ids),
            *(found.busy.ingress.get(a, 0.0) for a in ids),
            *(found.busy.egress.get(a, 0.0) for a in ids),
            *(found.busy.media.get(name, 0.0) for name in media),
            *(found.busy.links.get((a, b), 0.0) for a in ids for b in ids),
        ]
        for found in figures
    ]
    return np.array(rows)


class _Search:
    def __init__(self, problem: Problem, pools: Sequence[_Pool], target: float, stop: Callable[[], bool]) -> None:
        self._problem, self._pools, self._target, self._stop = problem, pools, target, stop
        self._plain = problem.objective == THROUGHPUT
        self._room = np.array([node.memory_bytes - node.base_bytes for node in problem.nodes], dtype=np.int64)
        self._must = np.array([node.required for node in problem.nodes], dtype=bool)
        least = [float(pool.value.min()) for pool in pools]
        rests = (least[i:] for i in range(len(pools) + 1))
        self._ahead = [max(rest, default=0.0) if self._plain else math.fsum(rest) for rest in rests]
        self._spent = 0
        self.best: Stages | None = None
        self.cut_short = False

    def extend(self, chosen: list[int]) -> None:
        """Whatever begins with these rows of the first pools."""
        depth = len(chosen)
        pool = self._pools[depth]
        self._spent += pool.busy.size + 4 * pool.new.size
        if self._spent > WORK or self._stop():
            self.cut_short = True
            return
        values = self._values(chosen)
        rows = np.nonzero(self._fits(chosen) & (values < self._target * (1 - TIE)))[0]
        last = depth + 1 == len(self._pools)
        for row in rows[np.argsort(values[rows], kind="stable")]:
            if values[row] >= self._target * (1 - TIE) or self.cut_short:
                return
            if last:
                self._take([*chosen, int(row)])
            else:
                self.extend([*chosen, int(row)])

    def _take(self, chosen: Sequence[int]) -> None:
        stages = {pool.model.name: pool.plans[row] for pool, row in zip(self._pools, chosen, strict=True)}
        found = evaluate(self._problem, stages)
        if not found.faults and found.objective_s < self._target * (1 - TIE):
            self._target, self.best = found.objective_s, stages

    def _values(self, chosen: Sequence[int]) -> Floats:
        """`[p]`: the objective that a plan with each row of the next pool has at least."""
        pool, ahead = self._pools[len(chosen)], self._ahead[len(chosen) + 1]
        before = list(zip(self._pools, chosen, strict=False))
        if self._plain:
            busy = sum((one.busy[row] for one, row in before), np.zeros(pool.busy.shape[1]))
            found: Floats = np.maximum((pool.busy + busy).max(axis=1, initial=0.0), ahead)
            return found
        total = pool.value + ahead
        for i, (one, row) in enumerate(before):
            total = total + one.value[row]
            for other, place in before[:i]:
                total = total + _waiting(one, one.part[row], one.load[row], other, other.part[place], other.load[place])
            total = total + _waiting(pool, pool.part, pool.load, one, one.part[row], one.load[row])
        return total

    def _fits(self, chosen: Sequence[int]) -> Bools:
        """`[p]`: whether memory suffices with each row of the next pool, and at the end no required node is idle."""
        pool, before = self._pools[len(chosen)], list(zip(self._pools, chosen, strict=False))
        rest = self._pools[len(chosen) + 1 :]
        hosts = _any([one.hosts[row] for one, row in before], pool.hosts)
        loads = _any([one.loads[row] for one, row in before], pool.loads)
        new = pool.new + sum((one.new[row] for one, row in before), np.zeros_like(self._room))
        both = pool.both + sum((one.both[row] for one, row in before), np.zeros_like(self._room))
        both = both + sum((one.now for one in rest), np.zeros_like(self._room))
        fits = ~hosts | ((new <= self._room) & (~loads | (both <= self._room)))
        fits = fits if rest else fits & (hosts | ~self._must)
        found: Bools = np.logical_and.reduce(fits, axis=1)
        return found


def _any(before: Sequence[Bools], each: Bools) -> Bools:
    found: Bools = np.logical_or.reduce(np.broadcast_arrays(each, *before))
    return found


def _waiting(a: _Pool, a_part: Floats, a_load: Floats, b: _Pool, b_part: Floats, b_load: Floats) -> Floats:
    """What items of two models wait for each other, weighed: for those of equal or higher priority."""
    found = np.zeros(())
    if b.model.priority >= a.model.priority:
        found = found + a.weight * (a_part @ b_load)
    if a.model.priority >= b.model.priority:
        found = found + b.weight * (a_load @ b_part)
    return found
