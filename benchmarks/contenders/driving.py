"""The loop that drives a pipeline over a PUSH and a PULL socket, the same for the floor and for Stageline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

TIMEOUT_MS = 30_000


def drive(
    push: zmq.Socket[bytes],
    pull: zmq.Socket[bytes],
    frames_of: Callable[[int], Sequence[Any]],
    number_of: Callable[[Sequence[Any]], int],
    window: int,
    items: int,
) -> float:
    """Seconds from the first send until the last outcome is here, with up to `window` items under way."""
    pull.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
    push.setsockopt(zmq.SNDTIMEO, TIMEOUT_MS)
    sent = 0
    begun = time.perf_counter()
    for done in range(items):
        while sent < items and sent - done < window:
            push.send_multipart(frames_of(sent), copy=False)
            sent += 1
        number = number_of(pull.recv_multipart(copy=False))
        if number != done:
            raise RuntimeError(f"item {number} came back in place of {done}")
    return time.perf_counter() - begun
