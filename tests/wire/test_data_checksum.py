"""Data messages with a checksum: golden bytes, and no flipped bit gets through."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec
import pytest
import xxhash

from stageline import packing
from stageline.checksum import MARK
from stageline.data import DATA_VERSION, Activation, DamagedError, Failure, Hop, Tensor, decode_frames, encode_frames
from stageline.errors import RemoteProtocolError
from stageline.plan import Endpoint, StageKey
from stageline.sockets import Sockets, host_key

HOP = Hop(StageKey(manifest="ab", start=0, end=1), "tcp://b:1", "b", "b/1", "", True)
HEADER = Activation(
    DATA_VERSION,
    "g/1",
    7,
    (1,),
    (1,),
    1,
    (1, 1),
    (HOP,),
    0,
    "tcp://g:1",
    (Tensor("uint8", (1, 8)), Tensor("uint8", (1, 3))),
)
BUFFERS = [b"ABCDEFGH", b"xyz"]


@pytest.fixture(params=["packed", "apart"])
def checked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[bytearray]]:
    """A message with a checksum, in one frame or in three."""
    if request.param == "apart":
        monkeypatch.setattr(packing, "MOST_BYTES", sum(map(len, BUFFERS)) - 1)
    return lambda: [bytearray(frame) for frame in encode_frames(HEADER, BUFFERS, checked=True)]


def test_the_checksum_is_xxh3_over_the_header_and_all_buffers_before_the_header(
    checked: Callable[[], list[bytearray]],
) -> None:
    first, *rest = checked()
    plain, *buffers = (bytes(frame) for frame in encode_frames(HEADER, BUFFERS))
    value = xxhash.xxh3_64_intdigest(plain + b"".join(buffers))
    assert bytes(first) == bytes([MARK]) + struct.pack(">Q", value) + plain
    assert [bytes(frame) for frame in rest] == buffers


def test_the_mark_begins_no_message_without_a_checksum() -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(bytes([MARK]))
    assert encode_frames(HEADER, BUFFERS)[0][0] == packing.MARK != MARK
    assert encode_frames(HEADER, [bytes(packing.MOST_BYTES), b"x"])[0][0] != MARK


def test_it_is_read_like_one_without(checked: Callable[[], list[bytearray]]) -> None:
    for frames in (checked(), encode_frames(HEADER, BUFFERS)):
        header, buffers = decode_frames(frames)
        assert header == HEADER and [bytes(buffer) for buffer in buffers] == BUFFERS
    failure = Failure(DATA_VERSION, "g/1", 7, 1, "failed", "no", "b", "b/1", True)
    assert decode_frames(encode_frames(failure, checked=True))[0] == failure


def test_no_flipped_bit_gets_through(checked: Callable[[], list[bytearray]]) -> None:
    for number, frame in enumerate(checked()):
        for bit in range(8 * len(frame)):
            frames = checked()
            frames[number][bit // 8] ^= 1 << bit % 8
            with pytest.raises(RemoteProtocolError):
                decode_frames(frames)


@pytest.mark.parametrize("length", range(11))
def test_one_that_ends_early_is_refused(length: int, checked: Callable[[], list[bytearray]]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_frames([checked()[0][:length]])


def test_of_a_damaged_tensor_the_header_is_told(checked: Callable[[], list[bytearray]]) -> None:
    frames = checked()
    frames[-1][-1] ^= 1
    with pytest.raises(DamagedError) as caught:
        decode_frames(frames)
    assert caught.value.header == HEADER


def test_of_a_damaged_header_what_cannot_be_read_is_not_told(checked: Callable[[], list[bytearray]]) -> None:
    frames = checked()
    frames[0][9] ^= 0xFF  # the mark of a packed message, or the header's first byte
    with pytest.raises(DamagedError) as caught:
        decode_frames(frames)
    assert caught.value.header is None


@pytest.mark.parametrize(
    ("setting", "away", "over_tcp", "over_ipc"),
    [
        ("auto", False, False, False),
        ("auto", True, True, True),
        ("always", False, True, True),
        ("never", True, False, False),
    ],
)
def test_receivers_ask_for_it_where_others_may_be_on_other_hosts(
    setting: str, away: bool, over_tcp: bool, over_ipc: bool
) -> None:
    sockets = Sockets()
    try:
        reached = "tcp://127.0.0.1:7720" if away else ""
        _, endpoint = sockets.bind_data("127.0.0.1", reached_at=reached, checksum=setting)  # type: ignore[arg-type]
    finally:
        sockets.close()
    assert endpoint.checked_from("elsewhere") is over_tcp
    assert endpoint.checked_from(host_key()) is over_ipc


def test_beyond_loopback_only_what_comes_over_tcp_bears_one() -> None:
    endpoint = Endpoint(tcp="tcp://10.0.0.1:1", ipc="ipc://@x", host="h", checksum="tcp")
    assert endpoint.checked_from("elsewhere") and not endpoint.checked_from("h")
