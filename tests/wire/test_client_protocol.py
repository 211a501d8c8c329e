"""The client protocol byte by byte: what is on the wire, and what is refused before it can do harm."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline import protocol as p
from stageline.errors import InvalidInputError, LocalProtocolError, RemoteProtocolError
from stageline.framing import FrameReader
from stageline.plan import DimRange, Signature, ValueSpec


def raw(message: msgspec.Struct, buffers: tuple[bytes, ...] = ()) -> bytes:
    return b"".join(p.encode_frame(message, buffers))


SPEC = p.TensorSpec("x", "float32", (1, 2))

GOLDEN = [
    (
        p.ServerHello((1,), "stageline 0.1.0", "g", p.Limits(1 << 20, 16), keepalive_s=10.0),
        "0000007e00000000"
        "86a174ab53657276657248656c6c6fa876657273696f6e739101a6736572766572af73746167656c696e6520302e312e30"
        "a767617465776179a167a66c696d69747382b16d61785f726571756573745f6279746573ce00100000"
        "ad6d61785f696e5f666c6967687410ab6b656570616c6976655f73cb4024000000000000",
    ),
    (
        p.ClientHello(1, "c", user="u"),
        "000000280000000084a174ab436c69656e7448656c6c6fa776657273696f6e01a6636c69656e74a163a475736572a175",
    ),
    (
        p.Infer(7, "m", (SPEC,), priority=-1, deadline_ms=250.0),
        "0000005b00000008"
        "86a174a5496e666572a2696407a56d6f64656ca16da6696e707574739183a46e616d65a178a56474797065a7666c6f61743332"
        "a573686170659201"
        "02a87072696f72697479ffab646561646c696e655f6d73cb406f4000000000000000803f00000040",
    ),
    (
        p.Result(7, (SPEC,), batch=3, attempts=2),
        "0000004700000008"
        "85a174a6526573756c74a2696407a76f7574707574739183a46e616d65a178a56474797065a7666c6f61743332a573686170659201"
        "02a5626174636803a8617474656d70747302"
        "0000803f00000040",
    ),
    (
        p.Error(7, "rejected", "later", retry_after_ms=100.0),
        "0000004100000000"
        "85a174a54572726f72a2696407a4636f6465a872656a6563746564a76d657373616765a56c61746572"
        "ae72657472795f61667465725f6d73cb4059000000000000",
    ),
    (
        p.ServerHello((1,), "s", "g", p.Limits(1, 1), auth_required=True),
        "0000006600000000"
        "86a174ab53657276657248656c6c6fa876657273696f6e739101a6736572766572a173a767617465776179a167"
        "a66c696d69747382b16d61785f726571756573745f627974657301ad6d61785f696e5f666c6967687401"
        "ad617574685f7265717569726564c3",
    ),
    (
        p.ClientHello(1, "c", token="slc_000000000000_x", user="u"),
        "0000004100000000"
        "85a174ab436c69656e7448656c6c6fa776657273696f6e01a6636c69656e74a163"
        "a5746f6b656eb2736c635f3030303030303030303030305f78a475736572a175",
    ),
    (
        p.Error(0, "authentication", "no"),
        "0000002c0000000084a174a54572726f72a2696400a4636f6465ae61757468656e7469636174696f6ea76d657373616765a26e6f",
    ),
    (p.Accepted(7), "000000100000000082a174a84163636570746564a2696407"),
    (p.Cancel(7), "0000000e0000000082a174a643616e63656ca2696407"),
    (p.Describe(8), "000000100000000082a174a84465736372696265a2696408"),
    (p.Ping(3), "000000120000000082a174a450696e67a873657175656e636503"),
    (p.Pong(), "000000080000000081a174a4506f6e67"),
]
BODY = bytes.fromhex("0000803f00000040")


@pytest.mark.parametrize(("message", "expected"), GOLDEN, ids=[type(m).__name__ for m, _ in GOLDEN])
def test_golden_bytes(message, expected):
    has_body = isinstance(message, (p.Infer, p.Result))
    assert raw(message, (BODY,) if has_body else ()).hex() == expected
    (frame,) = FrameReader().feed(bytes.fromhex(expected))
    to_server = isinstance(message, (p.ClientHello, p.Infer, p.Cancel, p.Describe, p.Ping))
    decode = p.decode_to_server if to_server else p.decode_to_client
    assert decode(frame.header) == message
    assert bytes(frame.body) == (BODY if has_body else b"")


OLD_CLIENT = {
    "ClientHello": ("000000180000000082a174ab436c69656e7448656c6c6fa776657273696f6e01", p.ClientHello(1)),
    "Infer": (
        "0000003c00000008"
        "84a174a5496e666572a2696407a56d6f64656ca16da6696e707574739183a46e616d65a178a56474797065a7666c6f61743332"
        "a573686170659201020000803f00000040",
        p.Infer(7, "m", (SPEC,)),
    ),
    "Cancel": ("0000000e0000000082a174a643616e63656ca2696407", p.Cancel(7)),
    "Describe": ("000000100000000082a174a84465736372696265a2696408", p.Describe(8)),
    "Ping": ("000000080000000081a174a450696e67", p.Ping()),
}


@pytest.mark.parametrize("name", OLD_CLIENT)
def test_what_a_first_client_says_is_understood_for_ever(name):
    """Only what version 1 required on its first day. These bytes never change."""
    data, expected = OLD_CLIENT[name]
    (frame,) = FrameReader().feed(bytes.fromhex(data))
    assert p.decode_to_server(frame.header) == expected


@pytest.mark.parametrize(
    ("message", "required"),
    [
        (p.ServerHello((1,), "s", "g", p.Limits(8, 2)), {"t", "versions", "server", "gateway", "limits"}),
        (p.Result(7, (SPEC,)), {"t", "id", "outputs"}),
        (p.Error(7, "failed", "no"), {"t", "id", "code", "message"}),
        (p.Described(7, ()), {"t", "id"}),
    ],
)
def test_what_a_first_client_needs_is_always_said(message, required):
    (frame,) = FrameReader().feed(raw(message, (BODY,) if isinstance(message, p.Result) else ()))
    assert set(msgspec.msgpack.decode(frame.header)) == required


def test_reserved_fields_round_trip():
    message = p.Infer(
        7, "m", (SPEC,), user="u", level=3, trace_id="t", idempotency_key="k", want_accepted=True, want_timings=True
    )
    (frame,) = FrameReader().feed(raw(message, (BODY,)))
    assert p.decode_to_server(frame.header) == message
    hello = p.ClientHello(1, "c", token="secret", user="u")
    assert p.decode_to_server(FrameReader().feed(raw(hello))[0].header) == hello


def test_the_examples_in_the_documentation_are_true():
    text = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
    blocks = re.findall(r"```\n([0-9a-f \n]+)```", text)
    x, y = (ValueSpec(name=name, dtype="float32", dims=("batch", 2)) for name in "xy")
    signature = Signature(inputs=(x,), outputs=(y,), dims={"batch": DimRange(minimum=1, maximum=4, nominal=1)})
    wanted = [
        raw(GOLDEN[0][0]),
        raw(p.ClientHello(1)),
        raw(GOLDEN[2][0], (BODY,)),
        raw(GOLDEN[3][0], (BODY,)),
        raw(GOLDEN[4][0]),
        raw(p.Describe(8)),
        raw(p.Described(8, (p.ModelInfo("m", "serving", signature),))),
    ]
    assert [bytes.fromhex(block) for block in blocks] == wanted


def test_a_newer_peer_may_say_more():
    header = msgspec.msgpack.encode({"t": "Cancel", "id": 7, "why": "because", "more": {"a": [1, 2]}})
    assert p.decode_to_server(header) == p.Cancel(7)


def test_models_are_described_with_their_signature():
    signature = Signature((ValueSpec("x", "float32", ("batch", 3)),), (), {"batch": DimRange(1, 8, 1)})
    message = p.Described(1, (p.ModelInfo("m", "unavailable", signature, "no workers"),))
    (frame,) = FrameReader().feed(raw(message))
    assert p.decode_to_client(frame.header) == message


@pytest.mark.parametrize(
    "header",
    [
        b"\xc1",
        b"",
        b"\x81",
        msgspec.msgpack.encode({"t": "Nope"}),
        msgspec.msgpack.encode({"t": "ServerHello", "versions": [1]}),
        msgspec.msgpack.encode({"id": 7}),
        msgspec.msgpack.encode({"t": "Cancel"}),
        msgspec.msgpack.encode({"t": "Cancel", "id": 0}),
        msgspec.msgpack.encode({"t": "Cancel", "id": -1}),
        msgspec.msgpack.encode({"t": "Cancel", "id": "7"}),
        msgspec.msgpack.encode({"t": "Cancel", "id": 7}) + b"\x00",
        msgspec.msgpack.encode({"t": "Infer", "id": 1, "model": "m", "inputs": [{"name": "x"}]}),
        msgspec.msgpack.encode({"t": "Infer", "id": 1, "model": "m" * 300, "inputs": []}),
        msgspec.msgpack.encode({"t": "Infer", "id": 1, "model": msgspec.msgpack.Ext(1, b""), "inputs": []}),
        b"\x91" * 5000,
    ],
)
def test_malformed_headers_are_refused(header):
    with pytest.raises(RemoteProtocolError):
        p.decode_to_server(header)


@pytest.mark.parametrize(
    ("lengths", "text"),
    [
        ("0000000000000000", "header of 0 bytes"),
        ("0001000100000000", "header of 65537 bytes"),
        ("ffffffff00000000", "header of 4294967295 bytes"),
        ("0000000100000401", "body of 1025 bytes"),
        ("00000001ffffffff", "body of 4294967295 bytes"),
    ],
)
def test_lengths_beyond_the_limits_are_refused_at_once(lengths, text):
    reader = FrameReader(max_body=1024)
    assert reader.feed(bytes.fromhex(lengths)[:7]) == []
    with pytest.raises(RemoteProtocolError, match=text):
        reader.feed(bytes.fromhex(lengths)[7:])


@pytest.mark.parametrize(
    ("spec", "size", "text"),
    [
        (("x", "float32", (1, 2)), 7, "needs 8 bytes, got 7"),
        (("x", "float32", (1, 2)), 9, "take 8 bytes, but the body has 9"),
        (("x", "float31", (1, 2)), 8, "float31"),
        (("x", "float32", (-1, -2)), 8, "negative"),
        (("x", "float32", (1 << 62, 1 << 62)), 8, "needs"),
        (("x", "float32", (1,) * 17), 4, "at most 16 dimensions, this one 17"),
    ],
)
def test_a_body_that_is_not_its_tensors_is_refused_by_name(spec, size, text):
    with pytest.raises(InvalidInputError, match=text):
        p.split_body((p.TensorSpec(*spec),), memoryview(bytes(size)))


def test_the_body_is_not_copied_when_split():
    body = memoryview(bytearray(12))
    first, second = p.split_body((SPEC, p.TensorSpec("y", "int32", (1,))), body)
    assert (len(first), len(second)) == (8, 4)
    assert second.obj is body.obj


def test_too_large_a_header_is_not_sent():
    with pytest.raises(LocalProtocolError):
        p.encode_frame(p.Error(1, "failed", "x" * (1 << 17)))


messages = st.one_of(
    st.builds(p.Ping, st.integers(0, 1 << 40)),
    st.builds(p.Cancel, st.integers(1, 1 << 40)),
    st.builds(lambda n, body: (n, body), st.integers(1, 99), st.binary(max_size=300_000)),
)


def as_frame(item):
    if isinstance(item, tuple):
        number, body = item
        return raw(p.Infer(number, "m", (p.TensorSpec("x", "uint8", (len(body),)),)), (body,))
    return raw(item)


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 100_000), min_size=1, max_size=8), st.booleans())
def test_frames_survive_any_cutting(items, cuts, lent):
    stream = b"".join(map(as_frame, items))
    reader = FrameReader()
    frames = []
    position = turn = 0
    while position < len(stream):
        piece = stream[position : position + cuts[turn % len(cuts)]]
        turn += 1
        if lent:
            buffer = reader.get_buffer()
            piece = piece[: len(buffer)]
            buffer[: len(piece)] = piece
            frames += reader.buffer_updated(len(piece))
        else:
            frames += reader.feed(piece)
        position += len(piece)
    assert reader.idle
    assert b"".join(raw(p.decode_to_server(f.header), (bytes(f.body),)) for f in frames) == stream


class TestReservations:
    """A reader that asks before it takes a body."""

    def reader(self, answer=True, **more):
        asked = []

        def reserve(nbytes):
            asked.append(nbytes)
            return answer

        return FrameReader(max_body=1000, reserve=reserve, **more), asked

    def test_a_body_within_the_limit_is_asked_for(self):
        reader, asked = self.reader()
        (frame,) = reader.feed(raw(p.Infer(1, "m", (SPEC,)), (BODY,)))
        assert (asked, bytes(frame.body), frame.skipped) == ([8], BODY, 0)

    @given(st.data())
    def test_without_room_nothing_is_lost_until_there_is(self, data):
        reader, _ = self.reader(answer=False)
        stream = b"".join(raw(p.Infer(i, "m", (SPEC,)), (bytes([i] * 8),)) + raw(p.Ping(i)) for i in range(1, 6))
        got = []
        while stream or reader.blocked:
            if reader.blocked:
                assert not reader.idle
                got += reader.resume()
            else:
                count = data.draw(st.integers(1, 300))
                got += reader.feed(stream[:count])
                stream = stream[count:]
        numbers = [getattr(m, "id", None) or m.sequence for m in (p.decode_to_server(f.header) for f in got)]
        assert numbers == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert [bytes(f.body) for f in got[::2]] == [bytes([i] * 8) for i in range(1, 6)]
        assert reader.idle

    @given(st.integers(1, 2000), st.integers(1001, 5000))
    def test_a_body_beyond_the_limit_is_skipped_and_said_so_at_once(self, chunk, size):
        reader, asked = self.reader()
        header = raw(p.Cancel(7))[8:]
        stream = p.PREFIX.pack(len(header), size) + header
        (frame,) = reader.feed(stream)
        assert (frame.header, len(frame.body), frame.skipped) == (header, 0, size)
        rest, frames = bytes(size) + raw(p.Ping(3)), []
        assert not reader.idle
        for start in range(0, len(rest), chunk):
            frames += reader.feed(rest[start : start + chunk])
        assert [p.decode_to_server(f.header) for f in frames] == [p.Ping(3)]
        assert (reader.idle, asked) == (True, [])
