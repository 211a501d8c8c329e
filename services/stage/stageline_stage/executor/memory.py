"""malloc(3) as an executor wants it: batches find again what they took, and what nobody uses goes back."""

from __future__ import annotations

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""mallopt(3)"""

KEPT_BYTES = 8 << 20
MAPPED_BYTES = 32 << 20
"""malloc's own upper limit; smaller blocks are reused."""


def tune_malloc() -> None:
    """Reuse what batches took: giving it back costs a fault per page next time. One arena, so that little is kept."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        libc.mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Give the system what is free within malloc's heap; to call after what took much and is rare.

    Graphs and modules refer to themselves, and with them go weights: so the garbage collector has its turn before.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def settle() -> None:
    """`give_back` at the end of the start, after which the garbage collector passes over what is there by then.

    That is mostly imports, which stay anyway: a look at all of them takes 0.1 s, in which nothing is computed.
    """
    give_back()
    gc.freeze()
