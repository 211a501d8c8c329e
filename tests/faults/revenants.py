"""What an earlier incarnation of the gateway left behind comes back on the data plane."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import zmq

from stageline import checksum, packing
from stageline.data import DATA_VERSION, Activation, Failure, Tensor, decode_frames, encode_frames
from stageline.errors import RemoteProtocolError
from stageline.messages import DATA
from stageline.sockets import Socket, Sockets

from .events import Target
from .load import wait_until
from .model import WIDTH
from .proxy import Proxy
from .rig import Rig

OLD = "gateway/an-earlier-one"
LONG_FRAME = b"\x02" + bytes(5)
"""How a last ZMTP frame of 256 bytes to 16 MiB begins."""
FRAME_BYTES = 9
BATCHES = 10
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Revenant:
    """Batches, results and failures come that are those of batches under way in all but their gateway's incarnation.

    The live ones are read off the link to the first worker. The batches have false inputs and pass through all
    stages; the results are false numbers; the failures cannot be retried. Taken for live ones they would answer
    requests wrongly, or fail them; at the gateway they must be dropped, those that come through the workers too.
    """

    seconds: float = 0.0
    kind: str = "old incarnation's data"

    def aim(self, rig: Rig) -> Target:
        first = rig.placed()[0]
        proxies = [rig.proxies[f"data:{first}"], rig.proxies["data:gateway"]]
        return Target("the gateway's batches", first, proxy=proxies[0], more=proxies, before={"dropped": _dropped(rig)})

    def decoy(self, rig: Rig) -> Target:
        return Target("a link that nobody uses", "nobody", proxy=rig.decoy())

    def strike(self, rig: Rig, target: Target) -> None:
        if not target.more:
            return
        sockets = Sockets()
        try:
            worker, gateway = (sockets.connect(DATA, proxy.address) for proxy in target.more)
            for socket in (worker, gateway):
                socket.poll(int(PATIENCE_S * 1000), zmq.POLLOUT)
            before = _dropped(rig)
            for header in _under_way(target.more[0]):
                _haunt(header, worker, gateway)
                target.before["batches"] = target.before.get("batches", 0) + 1
            sent = target.before.get("batches", 0)
            wait_until("all have been dropped", lambda: _dropped(rig) >= before + 3 * sent, PATIENCE_S)
        finally:
            sockets.close()

    def proof(self, rig: Rig, target: Target) -> str:
        sent, dropped = target.before.get("batches", 0), _dropped(rig) - target.before.get("dropped", 0)
        told = (
            f"of {sent} batches under way old ones were sent, with results and failures: the gateway dropped {dropped}"
        )
        return told if 0 < 2 * sent < dropped else ""

    def relent(self, rig: Rig, target: Target) -> None:
        """They have gone."""


def _dropped(rig: Rig) -> int:
    return int(rig.gateway.gauge("stageline_gateway_results_dropped_total"))


def _haunt(header: Activation, worker: Socket, gateway: Socket) -> None:
    """Send what an earlier gateway's batch of the same number would bring: a result, a failure, and the batch."""
    old = msgspec.structs.replace(header, gateway=OLD, sent_us=0)
    items = sum(header.rows)
    false = bytes(4 * WIDTH * items)
    result = msgspec.structs.replace(old, hop=len(old.path), values=(Tensor("float32", (items, WIDTH)),))
    last = old.path[-1]
    failure = Failure(
        DATA_VERSION, OLD, old.batch, old.attempt, "failed", "of an earlier time", last.node, last.executor, False
    )
    gateway.send_multipart(encode_frames(result, [false], checked=old.reply_checked))
    gateway.send_multipart(encode_frames(failure, checked=old.reply_checked))
    again = msgspec.structs.replace(old, values=(Tensor("float32", (items, WIDTH)),))
    worker.send_multipart(encode_frames(again, [false], checked=old.path[0].checked))


def _under_way(link: Proxy) -> Iterator[Activation]:
    """Batches that leave on a link, each as soon as it has; none if nothing passes."""
    streams: dict[int, bytearray] = defaultdict(bytearray)
    link.tap = lambda connection, data: streams[connection].extend(data)
    left, deadline = BATCHES, time.monotonic() + PATIENCE_S
    try:
        while left > 0 and time.monotonic() < deadline:
            time.sleep(0.001)
            for stream in list(streams.values()):
                piece = bytes(stream)
                for header in list(batches(piece))[-1:]:
                    del stream[: len(piece)]
                    left -= 1
                    yield header
    finally:
        link.tap = None


def batches(stream: bytes) -> Iterator[Activation]:
    """The batches at their first stage in a piece of a ZMTP stream, which may begin and end anywhere."""
    at = stream.find(LONG_FRAME)
    while at >= 0:
        start = at + FRAME_BYTES
        end = start + int.from_bytes(stream[at + 1 : start], "big")
        header = _batch(stream[start:end]) if end <= len(stream) else None
        if header is not None:
            yield header
        at = stream.find(LONG_FRAME, at + 1 if header is None else end)


def _batch(frame: bytes) -> Activation | None:
    if frame[:1] not in (bytes([checksum.MARK]), bytes([packing.MARK])):
        return None
    try:
        header, _ = decode_frames([frame])
    except RemoteProtocolError:
        return None
    return header if isinstance(header, Activation) and header.hop == 0 else None
