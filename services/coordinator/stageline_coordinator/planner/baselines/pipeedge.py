"""PipeEdge's dynamic programme (DSD 2022), over how many devices of each type are used.

h[j][S + v][v] = min over i < j and u of max(h[i][S][u], Σ seconds of v on blocks i..j, bytes(i) / bandwidth(u, v)):
S counts devices per type, v is the type that serves last. A device has one bandwidth, a transfer the lower of both
ends'; the gateway's links do not occur. Where every link has a bandwidth of its own, ours gives a device the median of
its links; the variant `by_links` gives a pair of types the mean of theirs, which is more than PipeEdge knows.

Devices are of a type if they compute and hold the same. Nodes that are all different would make 2^n states; beyond
MOST_STATES those of similar speed are put together into fewer types of mean speed and least memory.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from .setting import Run, Setting

MOST_STATES = 4096

Floats = NDArray[np.float64]
Counts = tuple[int, ...]
Rate = Callable[[Sequence[int], Sequence[int]], float]
Lasts = NDArray[np.intp]
"""`[v, 0, b]`: of the best way to b blocks with type v last, where its last stage starts; `[v, 1, b]`: the type before
it (-1: none).
"""


@dataclass(frozen=True)
class _Tables:
    """`cost[t, a, b]`: seconds of blocks [a, b) on type t, inf if impossible; `inward[v, u, i]`: cut i from u to v."""

    members: list[list[int]]
    cost: Floats
    inward: Floats


def by_devices(setting: Setting, rng: random.Random) -> list[Run] | None:
    """As published: a bandwidth per device."""
    own = {a: _median_rate(setting, a) for a in setting.nodes}
    return _plan(setting, lambda u, v: min(fmean(own[a] for a in u), fmean(own[b] for b in v)))


def by_links(setting: Setting, rng: random.Random) -> list[Run] | None:
    """The same, told the mean bandwidth of the links between each two types."""
    return _plan(setting, lambda u, v: fmean([setting.bandwidth(a, b) for a in u for b in v if a != b] or [0.0]))


def _plan(setting: Setting, rate: Rate) -> list[Run] | None:
    if not setting.nodes:
        return None
    members = _types(setting)
    tables = _Tables(members, _costs(setting, members), _hops(setting, members, rate))
    start: Counts = (0,) * len(members)
    best: dict[Counts, Floats] = {}
    lasts: dict[Counts, Lasts] = {}
    done, where = math.inf, (start, 0)
    for used in product(*(range(len(nodes) + 1) for nodes in members)):
        if used == start:
            continue
        best[used], lasts[used] = _state(tables, best, used)
        for v in range(len(members)):
            if best[used][v, -1] < done:
                done, where = float(best[used][v, -1]), (used, v)
    return None if math.isinf(done) else _trace(setting, members, lasts, *where)


def _state(tables: _Tables, best: dict[Counts, Floats], used: Counts) -> tuple[Floats, Lasts]:
    """By type that served last and number of blocks done: the bottleneck, and how it is reached."""
    size = tables.cost.shape[1]
    found = np.full((len(used), size), math.inf)
    lasts = np.full((len(used), 2, size), -1)
    last = [v for v, count in enumerate(used) if count]
    if sum(used) == 1:
        came = np.full((1, size), -1)
        reached = np.where(np.arange(size) == 0, 0.0, math.inf)[None]
    else:
        before = np.stack([best[_without(used, v)] for v in last])
        ways = np.maximum(before, tables.inward[last])  # [v, u, cut]
        came = ways.argmin(axis=1)
        reached = ways.min(axis=1)
    whole = np.maximum(reached[:, None, :], tables.cost[last].transpose(0, 2, 1))  # [v, end, start]
    starts = whole.argmin(axis=2)
    found[last] = whole.min(axis=2)
    lasts[last, 0], lasts[last, 1] = starts, np.take_along_axis(came, starts, axis=1)
    return found, lasts


def _without(used: Counts, v: int) -> Counts:
    return (*used[:v], used[v] - 1, *used[v + 1 :])


def _trace(setting: Setting, members: list[list[int]], lasts: dict[Counts, Lasts], used: Counts, v: int) -> list[Run]:
    """The stages back to front; the devices of a type are as good as one another to PipeEdge, so in their order."""
    runs: list[Run] = []
    left, end = [list(nodes) for nodes in members], setting.blocks
    while end > 0:
        start, before = (int(one) for one in lasts[used][v, :, end])
        runs.append((start, end, left[v].pop(0)))
        used = _without(used, v)
        v, end = before, start
    return runs[::-1]


def _types(setting: Setting) -> list[list[int]]:
    """Indices of nodes by type."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for node in setting.nodes:
        kind = (setting.free[node], *(block.seconds[node] for block in setting.model.blocks))
        groups.setdefault(kind, []).append(node)
    found = list(groups.values())
    by_speed = sorted(setting.nodes, key=setting.seconds)
    count = len(found)
    while math.prod(len(nodes) + 1 for nodes in found) > MOST_STATES:
        count -= 1
        ends = [len(by_speed) * k // count for k in range(count + 1)]
        found = [by_speed[a:b] for a, b in pairwise(ends) if a < b]
    return found


def _costs(setting: Setting, members: list[list[int]]) -> Floats:
    size = setting.blocks
    cost = np.full((len(members), size + 1, size + 1), math.inf)
    for t, nodes in enumerate(members):
        seconds = [fmean(block.seconds[node] for node in nodes) for block in setting.model.blocks]
        memory = min(setting.free[node] for node in nodes)
        for start in range(size):
            end = setting.farthest(start, memory)
            cost[t, start, start + 1 : end + 1] = np.cumsum(seconds[start:end])
    return cost


def _hops(setting: Setting, members: list[list[int]], rate: Rate) -> Floats:
    cuts = np.array(setting.model.cuts_bytes, dtype=np.float64)
    inward = np.full((len(members), len(members), len(cuts)), math.inf)
    for u, v in product(range(len(members)), repeat=2):
        bandwidth = rate(members[u], members[v])
        if bandwidth > 0:
            inward[v, u] = cuts / bandwidth
    return inward


def _median_rate(setting: Setting, node: int) -> float:
    return median([setting.bandwidth(node, other) for other in setting.nodes if other != node] or [math.inf])
