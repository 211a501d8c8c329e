"""Sets of cuts as bits: which cuts a stage may start at, and which it may end at, within a bound.

Bit c of word c // 64 stands for cut c. The ends that a node reaches from a set of starts are looked up eight starts
at a time (the "method of four Russians").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .instance import Instance

Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]
_BYTE = 8


def pack(bits: Bools) -> Words:
    """`[..., c]` to `[..., word]`."""
    words = -(-bits.shape[-1] // 64)
    padded = np.zeros((*bits.shape[:-1], 64 * words), dtype=bool)
    padded[..., : bits.shape[-1]] = bits
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8").astype(np.uint64)


def unpack(words: Words, cuts: int) -> Bools:
    """`[..., word]` to `[..., c]` for the first `cuts` cuts."""
    octets = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=cuts, bitorder="little").view(bool)


@dataclass(frozen=True)
class Moves:
    """What one bound allows. `runs[t, a, b]`: a node of type t may serve [a, b); `first[t]`, `last[t]`: the ends.

    `crossing[t, u, c]`: cut c may go from type t to type u; `hops[t, u, word]`: the same, packed.
    `ends[k, w, 256·t + i]`: word w of the ends that a node of type t reaches from the starts that the bits of i
    say among cuts 8k to 8k + 7.
    """

    runs: Bools
    crossing: Bools
    first: Bools
    last: Bools
    hops: Words
    ends: Words

    @property
    def cuts(self) -> int:
        return int(self.runs.shape[1])

    @property
    def words(self) -> int:
        return int(self.hops.shape[2])

    def reach(self, kinds: NDArray[np.intp], starts: Words) -> Words:
        """`[word, i]`: ends reached by a node of type `kinds[i]` from `starts[:, i]`."""
        found = np.zeros_like(starts)
        row = kinds * (1 << _BYTE)
        for k in range(len(self.ends)):
            word, shift = divmod(_BYTE * k, 64)
            octet = (starts[word] >> np.uint64(shift)) & np.uint64(0xFF)
            if octet.any():
                place = row + octet.astype(np.intp)
                for w in range(word, len(found)):  # a stage ends after its start
                    found[w] |= self.ends[k, w][place]
        return found


def moves(instance: Instance, bound: int) -> Moves:
    """The moves within `bound` quanta."""
    runs = instance.cost <= bound
    crossing = instance.hops.between <= bound
    first, last = instance.hops.enter <= bound, instance.hops.leave <= bound
    return Moves(runs, crossing, first, last, pack(crossing), _ends(pack(runs)))


def _ends(runs: Words) -> Words:
    """Tables of `Moves.ends` from `runs[t, a, word]`."""
    kinds, cuts, words = runs.shape
    octets = -(-cuts // _BYTE)
    rows = np.zeros((kinds, _BYTE * octets, words), dtype=np.uint64)
    rows[:, :cuts] = runs
    grouped = rows.reshape(kinds, octets, _BYTE, words)
    table = np.zeros((octets, words, kinds, 1 << _BYTE), dtype=np.uint64)
    for bit in range(_BYTE):
        half = 1 << bit
        added = grouped[:, :, bit].transpose(1, 2, 0)[..., None]
        table[..., half : 2 * half] = table[..., :half] | added
    return table.reshape(octets, words, kinds << _BYTE)
