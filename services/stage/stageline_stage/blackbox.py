"""Which requests an executor computes right now, in memory that outlives it.

An executor notes the request ids of its current batch before it computes; when it dies, its agent reads
them, so that exactly those are suspected of having killed it. A message could not be relied on: the crash
may come microseconds later. Layout: little-endian u32 count, 4 bytes of padding, then u64 ids.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence

MAX_IDS = 8192
SIZE = 8 + 8 * MAX_IDS


_COUNT = struct.Struct("<I")
_ONE = struct.Struct("<I4xQ")


class BlackBox:
    """A page of shared memory, made by the agent (`create`) and inherited by its executor (`open`)."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, SIZE)

    @classmethod
    def create(cls) -> BlackBox:
        """A new, empty one."""
        descriptor = os.memfd_create("stageline-blackbox", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, SIZE)
        return cls(descriptor)

    def write(self, ids: Sequence[int]) -> None:
        """Note what is computed from now on; empty when nothing is. Ids outside u64 and above `MAX_IDS` are dropped."""
        self.clear()
        if len(ids) == 1 and 0 <= ids[0] < 1 << 64:  # no list, no format string: this is once per batch
            _ONE.pack_into(self._memory, 0, 1, ids[0])
        elif ids:
            fitting = [i for i in ids if 0 <= i < 1 << 64][:MAX_IDS]
            struct.pack_into(f"<{len(fitting)}Q", self._memory, 8, *fitting)
            _COUNT.pack_into(self._memory, 0, len(fitting))

    def clear(self) -> None:
        """Nothing is computed from now on."""
        _COUNT.pack_into(self._memory, 0, 0)

    def read(self) -> tuple[int, ...]:
        """What was computed last."""
        (count,) = struct.unpack_from("<I", self._memory, 0)
        return struct.unpack_from(f"<{min(count, MAX_IDS)}Q", self._memory, 8)

    def close(self) -> None:
        """Free the memory on this side."""
        self._memory.close()
        os.close(self.descriptor)
