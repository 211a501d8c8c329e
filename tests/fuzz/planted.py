"""A defect that only the harness has, behind two conditions that no seed meets: a fuzzer that works finds it."""

from __future__ import annotations

import msgspec

from stageline.data import Activation, decode_frames
from stageline.errors import StagelineError


def read(data: bytes) -> None:
    """As the data plane's target, but for a batch that no gateway would send."""
    try:
        header, _ = decode_frames(msgspec.msgpack.decode(data, type=list[bytes]))
    except (StagelineError, msgspec.DecodeError, RecursionError):
        return
    if isinstance(header, Activation):
        _look(header)


def _look(header: Activation) -> None:
    if header.level > 16:  # noqa: SIM102 - a branch each, which the fuzzer sees one after the other
        if header.attempt > 16:
            raise IndexError("planted")
