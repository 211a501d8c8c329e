"""What a message costs the box that receives and the one that sends it: processor time, measured on ourselves.

Messages of two sizes go through what a batch goes through: tensors in, the next header, tensors out, and once round a
TCP connection of this process. Their times give the cost per message and the cost per byte. Caches are cold before each
one, as a stage has run between two messages.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import torch

from stageline.data import DATA_VERSION, Activation, Hop, decode_frames
from stageline.messages import DATA
from stageline.plan import StageKey
from stageline.sockets import Socket, Sockets
from stageline_stage.executor.batches import next_message
from stageline_stage.executor.cold import Caches
from stageline_stage.executor.tensors import outgoing_values, received_values

SMALL, LARGE = 4 << 10, 512 << 10
RUNS = 9
WARM_UP = 2
CACHES_BYTES = 4 << 20
ARRIVES_S = 5.0

STAGE = StageKey(manifest="", start=0, end=1)


class HopCost(NamedTuple):
    """Seconds of a whole processor: for each message received or sent, and for each byte of it."""

    hop_s: float = 0.0
    byte_s: float = 0.0

    def on(self, quota: float) -> HopCost:
        """The seconds that it takes on so many CPUs (0: not limited)."""
        part = min(quota, 1.0) if quota else 1.0
        return HopCost(self.hop_s / part, self.byte_s / part)


def measure(sockets: Sockets, host: str) -> HopCost:
    """What passing messages on costs here."""
    here, endpoint = sockets.bind_data(host)
    there = sockets.connect(DATA, endpoint.tcp)
    here.rcvtimeo = there.sndtimeo = round(ARRIVES_S * 1000)
    try:
        caches = Caches(CACHES_BYTES)
        small, large = (_median(here, there, nbytes, caches) for nbytes in (SMALL, LARGE))
    finally:
        sockets.release(there)
        sockets.release(here)
    return from_times(small, large)


def from_times(small_s: float, large_s: float) -> HopCost:
    """From what receiving and sending a message of each of the two sizes takes together."""
    byte_s = max(0.0, large_s - small_s) / (2 * (LARGE - SMALL))
    return HopCost(max(0.0, small_s / 2 - SMALL * byte_s), byte_s)


def _median(here: Socket, there: Socket, nbytes: int, caches: Caches) -> float:
    sent = torch.zeros(1, nbytes // 4)
    header = _header(sent)
    seconds = []
    for _ in range(WARM_UP + RUNS):
        caches.fill()
        begun = time.process_time()
        there.send_multipart(next_message(header, [sent], 0.0, 0.0).frames, copy=True)
        received, buffers = decode_frames(here.recv_multipart(copy=False))
        if isinstance(received, Activation):
            received_values(received.values, buffers)
        seconds.append(time.process_time() - begun)
    return statistics.median(seconds[WARM_UP:])


def _header(value: torch.Tensor) -> Activation:
    hop = Hop(STAGE, "", "", "")
    return Activation(
        version=DATA_VERSION,
        gateway="",
        batch=1,
        ids=(1,),
        rows=(1,),
        attempt=1,
        epoch=(0, 0),
        path=(hop, hop),
        hop=0,
        reply="",
        values=outgoing_values([value])[0],
    )
