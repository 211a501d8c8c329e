"""Small data messages in one frame: golden bytes, and nothing but what the header promises."""

from __future__ import annotations

import struct

import msgspec
import pytest
import torch

from stageline import packing
from stageline.data import (
    DATA_VERSION,
    Activation,
    Cancel,
    Failure,
    Header,
    Hop,
    Scalar,
    Tensor,
    decode_frames,
    encode_frames,
)
from stageline.errors import RemoteProtocolError
from stageline.plan import StageKey
from stageline_stage.executor.tensors import ALIGNMENT, received_values

HOP = Hop(StageKey(manifest="ab", start=0, end=1), "tcp://b:1", "b", "b/1")
VALUES = (Tensor("uint8", (1, 5)), Scalar(3), Tensor("float32", (0, 2)), Tensor("float32", (2,)))
HEADER = Activation(DATA_VERSION, "g/1", 7, (1,), (1,), 1, (1, 1), (HOP,), 0, "tcp://g:1", VALUES)
BUFFERS = [b"ABCDE", b"", struct.pack("<2f", 1.5, -2.0)]
GOLDEN = bytes.fromhex(
    "c7 a2000000"  # packed, 162 bytes of header
    "dc0013aa41637469766174696f6e02a3672f310791019101019201019197a3486f7083a86d616e6966657374a26162a57374"
    "61727400a3656e6401a97463703a2f2f623a31a162a3622f31a0c200a97463703a2f2f673a319494a654656e736f72a57569"
    "6e7438920105a092a65363616c61720394a654656e736f72a7666c6f61743332920002a094a654656e736f72a7666c6f6174"
    "33329102a0000000a090c200"
    "4142434445 0000c03f 000000c0"
)


def test_its_bytes() -> None:
    assert encode_frames(HEADER, BUFFERS) == [GOLDEN]
    assert GOLDEN[5:-13] == msgspec.msgpack.encode(HEADER)


def test_the_header_of_a_peer_that_does_not_say_when_it_sent_is_understood() -> None:
    older = GOLDEN[5:-14].replace(b"\xdc\x00\x13", b"\xdc\x00\x12", 1)
    header, _ = decode_frames([packing.packed(older, BUFFERS)])
    assert header == HEADER


def test_its_tensors_are_what_was_sent_and_lie_where_kernels_want_them() -> None:
    (frame,) = encode_frames(HEADER, BUFFERS)
    header, buffers = decode_frames([frame])
    assert header == HEADER and [bytes(buffer) for buffer in buffers] == BUFFERS
    first, number, empty, last = received_values(HEADER.values, buffers)
    assert isinstance(first, torch.Tensor) and isinstance(empty, torch.Tensor) and isinstance(last, torch.Tensor)
    assert bytes(first.flatten().tolist()) == b"ABCDE" and number == 3 and empty.shape == (0, 2)
    assert last.tolist() == [1.5, -2.0]
    assert first.data_ptr() % ALIGNMENT == last.data_ptr() % ALIGNMENT == 0


def test_larger_ones_have_a_frame_for_each_buffer_and_both_are_understood() -> None:
    for nbytes, frames in ((packing.MOST_BYTES, 1), (packing.MOST_BYTES + 1, 2)):
        header = msgspec.structs.replace(HEADER, values=(Tensor("uint8", (nbytes,)),))
        sent = encode_frames(header, [bytes(nbytes)])
        assert len(sent) == frames
        assert len(decode_frames(sent)[1][0]) == nbytes
    apart = [msgspec.msgpack.encode(HEADER), *BUFFERS]
    assert [bytes(buffer) for buffer in decode_frames(apart)[1]] == BUFFERS


@pytest.mark.parametrize("change", [-13, -1, 1])
def test_other_bytes_than_the_header_promises_are_refused(change: int) -> None:
    (frame,) = encode_frames(HEADER, BUFFERS)
    changed = bytes(frame)[:change] if change < 0 else bytes(frame) + bytes(change)
    with pytest.raises(RemoteProtocolError, match=f"with {13 + change} bytes of tensors, not 13"):
        decode_frames([changed])


@pytest.mark.parametrize("length", [1, 4, 5, 40])
def test_one_that_ends_within_its_header_is_refused(length: int) -> None:
    (frame,) = encode_frames(HEADER, BUFFERS)
    with pytest.raises(RemoteProtocolError, match="ends"):
        decode_frames([bytes(frame)[:length]])


@pytest.mark.parametrize("error", [-1, 1, 1 << 31])
def test_a_header_of_another_length_than_is_said_is_refused(error: int) -> None:
    header = msgspec.msgpack.encode(HEADER)
    frame = bytes([packing.MARK]) + struct.pack("<I", len(header) + error) + header + b"".join(BUFFERS)
    with pytest.raises(RemoteProtocolError):
        decode_frames([frame])


def test_frames_after_a_packed_one_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="frames after"):
        decode_frames([*encode_frames(HEADER, BUFFERS), b"more"])


@pytest.mark.parametrize(
    "header",
    [Failure(DATA_VERSION, "g/1", 7, 1, "failed", "no", "b", "b/1", True), Cancel(DATA_VERSION, "g/1", (7,), (HOP,))],
)
def test_what_has_no_tensors_is_not_packed(header: Header) -> None:
    assert encode_frames(header) == [msgspec.msgpack.encode(header)]
    with pytest.raises(RemoteProtocolError, match="no buffers"):
        decode_frames([packing.packed(msgspec.msgpack.encode(header), [])])


def test_a_large_header_is_not_excused_by_packing() -> None:
    header = msgspec.structs.replace(HEADER, trace="x" * 20_000)
    with pytest.raises(RemoteProtocolError, match="too large"):
        decode_frames(encode_frames(header, BUFFERS))
