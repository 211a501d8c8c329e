"""Which nodes are interchangeable: exchanging two of them leaves the whole problem as it was."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from .parts import Links


def alike(nodes: Sequence[int], traits: Sequence[Hashable], links: Links | None) -> tuple[tuple[int, ...], ...]:
    """The nodes in classes, in the order of their first members; `traits[i]`: what `nodes[i]` is, its links aside.

    Exchanging a and b, and b and c, gives the exchange of a and c: so being interchangeable is transitive, and a node
    need only be compared with the first of a class.
    """
    rates = np.array(links.bandwidth_bytes_per_s) if links else None
    classes: dict[Hashable, list[list[int]]] = {}
    for node, trait in zip(nodes, traits, strict=True):
        same = classes.setdefault(trait, [])
        home = next((one for one in same if rates is None or _exchangeable(rates, one[0], node)), None)
        if home is None:
            same.append([node])
        else:
            home.append(node)
    return tuple(sorted(tuple(members) for same in classes.values() for members in same))


def _exchangeable(rates: NDArray[np.float64], a: int, b: int) -> bool:
    others = np.ones(len(rates), dtype=bool)
    others[[a, b]] = False
    rows = np.array_equal(rates[a, others], rates[b, others])
    return bool(rows and np.array_equal(rates[others, a], rates[others, b]) and rates[a, b] == rates[b, a])
