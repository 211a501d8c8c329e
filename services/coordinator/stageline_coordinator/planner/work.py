"""What all nodes together need at least, whatever the plan: a bound on throughput for any number of models.

Fractions of every block on any nodes, memory and hops aside, is a linear program: the fractional schedule on unrelated
machines (Lenstra, Shmoys and Tardos 1990). Any prices y of the nodes' seconds that sum to 1 bound it from below by
sum over blocks of min over nodes of y times seconds; they are improved by multiplicative updates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from .costs import share_of
from .parts import Model, Node
from .problem import Problem

ROUNDS = 400


def total_work_s(problem: Problem, models: Iterable[Model]) -> float:
    """No plan that serves these models keeps its busiest node less busy; replicas may be as many as they like."""
    rooms = [_room(node) for node in problem.nodes]
    rows: list[list[float]] = []
    for model in models:
        share = share_of(problem, model)
        for b, block in enumerate(model.blocks):
            need = model.stage_bytes(b, b + 1)
            each = zip(block.seconds, rooms, strict=True)
            rows.append([share * seconds if need <= room else math.inf for seconds, room in each])
    seconds = np.array(rows).reshape(len(rows), len(problem.nodes))
    if not seconds.size or not np.isfinite(seconds).any(axis=1).all():
        return 0.0
    usable = np.isfinite(seconds).any(axis=0)
    return _best_prices(seconds[:, usable])


def own_peak_s(problem: Problem, model: Model) -> float:
    """How busy an item of the model keeps the busiest node at least, with all nodes to itself. Its share counts 1."""
    return total_work_s(replace(problem, models=(model,), current={}), (model,))


def own_work_s(problem: Problem, model: Model) -> float:
    """What one item of the model keeps nodes busy at least, hops aside: no latency is below it. inf: none can."""
    rooms = [_room(node) for node in problem.nodes]
    needs = [model.stage_bytes(b, b + 1) for b in range(len(model.blocks))]
    best = (
        min((s for s, room in zip(block.seconds, rooms, strict=True) if need <= room), default=math.inf)
        for block, need in zip(model.blocks, needs, strict=True)
    )
    return math.fsum(best) * (1 - 1e-14 * len(model.blocks))


def _room(node: Node) -> int:
    """Bytes for stages; less than none on a node that may host none."""
    return -1 if node.excluded else node.memory_bytes - node.base_bytes


def _best_prices(seconds: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    finite = np.where(np.isfinite(seconds), seconds, 0.0)
    speed = np.isfinite(seconds).sum(axis=0) / np.maximum(finite.sum(axis=0), 1e-300)
    prices = speed / speed.sum()
    best, step = 0.0, 0.5
    for _ in range(ROUNDS):
        cost = np.where(np.isfinite(seconds), prices * finite, math.inf)
        at = cost.argmin(axis=1)
        bound = float(cost[np.arange(len(at)), at].sum())
        step = step if bound > best else step * 0.97
        best = max(best, bound)
        load = np.bincount(at, weights=finite[np.arange(len(at)), at], minlength=len(prices))
        if load.max() <= 0:
            break
        prices = prices * np.exp(step * (load / load.max() - 0.5))
        prices /= prices.sum()
    return best * (1 - 1e-14 * len(seconds))  # float sums may be a little too large
