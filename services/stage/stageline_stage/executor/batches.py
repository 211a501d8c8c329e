"""A batch on its way through an executor, and the messages that say how it ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Union

import msgspec

from stageline.data import DATA_VERSION, Activation, Buffer, Failure, Timing, encode_frames
from stageline.errors import StagelineError
from stageline_stage.executor.measure import Measurement
from stageline_stage.executor.tensors import outgoing_values

MAX_REASON = 200
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Batch(msgspec.Struct, frozen=True):  # made in a third of the time that a NamedTuple takes
    """A batch that waits; `buffers` are the received frames, `arrived_s` is monotonic."""

    header: Activation
    buffers: Sequence[Any]
    arrived_s: float


Work = Union[Batch, Measurement]


class Outgoing(msgspec.Struct, frozen=True):
    """Frames for another executor or a gateway; `peer` is its id, or the gateway as headers name it."""

    address: str
    frames: Sequence[Buffer]
    peer: str


def next_message(
    header: Activation, outputs: Sequence[Any], queued_s: float, computed_s: float, sustained_s: float = 0.0
) -> Outgoing:
    """The outcome of a stage, addressed to the next hop, or after the last to the gateway.

    `sustained_s`: see `Timing`; 0 where it is `computed_s`.
    """
    hop, path = header.hop + 1, header.path
    there = path[hop] if hop < len(path) else None
    values, buffers = outgoing_values(outputs, there.codec if there else "")
    timing = Timing(_microseconds(queued_s), _microseconds(computed_s), _microseconds(sustained_s))
    timings, sent_us = (*header.timings, timing), time.monotonic_ns() // 1000
    following = msgspec.structs.replace(header, hop=hop, values=values, timings=timings, sent_us=sent_us)
    if there is None:
        frames = encode_frames(following, buffers, checked=header.reply_checked)
        return Outgoing(header.reply, frames, header.gateway)
    return Outgoing(there.address, encode_frames(following, buffers, checked=there.checked), there.executor)


def failure_of(header: Activation, code: str, message: str, node: str, executor: str, *, retryable: bool) -> Outgoing:
    """A `Failure` of the batch, addressed to its gateway."""
    failure = Failure(
        version=DATA_VERSION,
        gateway=header.gateway,
        batch=header.batch,
        attempt=header.attempt,
        code=code,
        message=message,
        node=node,
        executor=executor,
        retryable=retryable,
    )
    return Outgoing(header.reply, encode_frames(failure, checked=header.reply_checked), header.gateway)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6 + 0.5) if seconds > 0 else 0


def is_out_of_memory(error: Exception) -> bool:
    """Whether another executor, or this one later, may well have the memory that was missing."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(hint in text for hint in _OUT_OF_MEMORY)


def reason_of(error: Exception) -> str:
    """One line for a client: what went wrong, without a path of this machine."""
    line = next(iter(str(error).splitlines()), "")[:MAX_REASON]
    if isinstance(error, StagelineError) or (line and "/" not in line and "\\" not in line):
        return line
    return type(error).__name__
