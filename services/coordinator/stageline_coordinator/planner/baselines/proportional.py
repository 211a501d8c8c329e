"""Splits by a share of each node: even, by memory (as exo does), by compute rate (AR-MDI). None looks at links."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from .setting import Run, Setting, chain


def even(setting: Setting, rng: random.Random) -> list[Run] | None:
    """As many blocks on each node, in the order given: on all of them, or on the first so many if that does not fit."""
    for count in range(min(len(setting.nodes), setting.blocks), 0, -1):
        runs = _split(setting, setting.nodes[:count], [1.0] * count)
        if _fits(setting, runs):
            return runs
    return None


def by_memory(setting: Setting, rng: random.Random) -> list[Run] | None:
    """Blocks in proportion to memory, the roomiest node first.

    exo's ring partitioning: nodes sorted by memory, descending, boundaries at the running share of all memory, rounded
    down to a block.
    """
    nodes = sorted(setting.nodes, key=lambda i: -setting.free[i])
    runs = _split(setting, nodes, [float(max(0, setting.free[i])) for i in nodes])
    return runs if _fits(setting, runs) else None


def by_rate(setting: Setting, rng: random.Random) -> list[Run] | None:
    """After AR-MDI (the baseline of PA-MDI, arXiv 2412.12371): blocks in proportion to compute rate, within memory.

    Node i gets L·r_i/Σr of L blocks. If its memory takes only l_i of them, r_i becomes l_i·(Σr - r_i)/(L - l_i), and it
    starts over. The rate is that of the whole model; l_i is counted from where the node's blocks start.
    """
    spent = [setting.seconds(node) for node in setting.nodes]
    rates = [0.0 if math.isinf(s) else 1 / s if s > 0 else 1e12 for s in spent]
    for _ in range(setting.blocks * len(rates)):
        if not any(rates):
            return None
        runs = _split(setting, setting.nodes, rates)
        short = next(((run, end) for run in runs if (end := setting.reach(run[0], run[2])) < run[1]), None)
        if short is None:
            return runs
        (start, _, node), end = short
        at = setting.nodes.index(node)
        others, kept = math.fsum(rates) - rates[at], end - start
        rates[at] = kept * others / (setting.blocks - kept)
    return None


def _split(setting: Setting, nodes: Sequence[int], shares: Sequence[float]) -> list[Run]:
    """Blocks up to the running share of the total, rounded down; what rounding leaves goes to the last node."""
    total, bounds, reached = math.fsum(shares) or 1.0, [0], 0.0
    for share in shares:
        reached += share
        bounds.append(int(round(reached / total, 5) * setting.blocks))
    bounds[-1] = setting.blocks
    return chain(bounds, nodes)


def _fits(setting: Setting, runs: Sequence[Run]) -> bool:
    return all(setting.reach(start, node) >= end for start, end, node in runs)
