"""SEIFER's K-path class matching: paths of fast links for the classes of large transfers, found by colour coding."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from .setting import Setting

COLOURS = 1.3
"""Colours per node of a path: more make a path more likely to be colourful, and a try slower."""

MOST_TRIES = 300
"""SEIFER tries 10·e^k colourings for a path of k nodes; from k = 4 on fewer must do here."""

Path = list[int]
Ends = tuple[int | None, int | None]
Span = tuple[int, int]
"""The first and the last stage of a run of hops."""


def class_matching(
    setting: Setting, cuts: Sequence[int], nodes: Sequence[int], order: Sequence[Span], rng: random.Random
) -> Path | None:
    """A node for every stage between `cuts`; None if some run of hops finds no path.

    Run by run in `order`, the hops get the path of unused nodes whose slowest link is fastest, from and to the nodes
    that earlier runs have fixed.
    """
    placed: list[int | None] = [None] * (len(cuts) + 1)
    if not cuts:
        return [rng.choice(nodes)] if nodes else None
    for first, last in order:
        unused = [node for node in nodes if node not in placed]
        ends = placed[first], placed[last]
        path = _fastest_path(setting, unused, last - first + 1, ends, rng)
        if path is None:
            return None
        placed[first : last + 1] = path
    return [node for node in placed if node is not None]


def order_of(setting: Setting, cuts: Sequence[int], classes: int) -> tuple[Span, ...]:
    """Runs of neighbouring cuts of one class, from the highest class down, within it the longest first.

    The bytes of all possible cuts are put into `classes` classes of equal width.
    """
    labels = _labels(setting, cuts, classes) if cuts else []
    found: list[tuple[int, int, int]] = []
    start = 0
    for hop in range(1, len(labels) + 1):
        if hop == len(labels) or labels[hop] != labels[start]:
            found.append((labels[start], start, hop))
            start = hop
    found.sort(key=lambda run: (-run[0], run[1] - run[2], run[1]))
    return tuple((first, last) for _, first, last in found)


def _labels(setting: Setting, cuts: Sequence[int], classes: int) -> list[int]:
    """The class of each cut, by a histogram of what every possible cut would transfer."""
    sizes = setting.model.cuts_bytes[1:-1]
    low, width = min(sizes), (max(sizes) - min(sizes)) / classes
    return [min(classes - 1, int((setting.model.cuts_bytes[cut] - low) / width)) if width else 0 for cut in cuts]


def _fastest_path(setting: Setting, unused: Sequence[int], length: int, ends: Ends, rng: random.Random) -> Path | None:
    """A path of `length` nodes whose slowest link is as fast as a binary search over the links' bandwidths finds it."""
    nodes = [*unused, *(end for end in ends if end is not None)]
    bandwidths = sorted({setting.bandwidth(a, b) for a in nodes for b in nodes if a != b} - {0.0})
    best: Path | None = None
    low, high = 0, len(bandwidths)
    while low < high:
        middle = (low + high) // 2
        path = _colour_coding(setting, nodes, length, ends, bandwidths[middle], rng)
        if path is None:
            high = middle
        else:
            best, low = path, middle + 1
    return best


def _colour_coding(
    setting: Setting,
    nodes: Sequence[int],
    length: int,
    ends: Ends,
    threshold: float,
    rng: random.Random,
) -> Path | None:
    """A path of links of at least `threshold` (Alon, Yuster, Zwick): colour at random, look for a colourful path."""
    colours = math.ceil(COLOURS * length)
    tries = min(MOST_TRIES, math.ceil(10 * math.exp(length)))
    before = {
        b: sum(1 << place for place, a in enumerate(nodes) if a != b and setting.bandwidth(a, b) >= threshold)
        for b in nodes
    }
    for _ in range(tries):
        colour = [1 << rng.randrange(colours) for _ in nodes]
        path = _colourful(nodes, colour, before, length, ends)
        if path is not None:
            return path
    return None


def _colourful(
    nodes: Sequence[int],
    colour: Sequence[int],
    before: dict[int, int],
    length: int,
    ends: Ends,
) -> Path | None:
    """A path whose nodes all have different colours. `before[b]`: bits of the places that have a link to node b."""
    start, end = ends
    inner = [place for place, node in enumerate(nodes) if node != start]
    first = [place for place, node in enumerate(nodes) if node == (node if start is None else start) and node != end]
    levels: list[dict[int, int]] = [{}]
    for place in first:
        levels[0][colour[place]] = levels[0].get(colour[place], 0) | 1 << place
    for step in range(1, length):
        level: dict[int, int] = {}
        for place in inner:
            if (nodes[place] == end) != (step == length - 1 and end is not None):
                continue
            for used, at in levels[-1].items():
                if not used & colour[place] and at & before[nodes[place]]:
                    both = used | colour[place]
                    level[both] = level.get(both, 0) | 1 << place
        levels.append(level)
    return _trace(nodes, colour, before, levels)


def _trace(
    nodes: Sequence[int], colour: Sequence[int], before: dict[int, int], levels: list[dict[int, int]]
) -> Path | None:
    """One path through the levels, back to front."""
    if not levels[-1]:
        return None
    used, at = next(iter(levels[-1].items()))
    path: Path = []
    for level in reversed(levels[:-1]):
        place = at.bit_length() - 1
        path.append(nodes[place])
        used ^= colour[place]
        at = level[used] & before[nodes[place]]
    return [nodes[at.bit_length() - 1], *reversed(path)]
