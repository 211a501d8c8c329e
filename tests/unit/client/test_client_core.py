"""The clients' shared core, without a connection."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline import protocol as p
from stageline.client import AsyncClient, Client
from stageline.client.core import Broken, ClientCore, Finished, Greeted, check_concurrency, parse_address
from stageline.client.tensors import from_wire, to_wire
from stageline.dtypes import NUMPY_NAME
from stageline.errors import (
    ConfigError,
    DeadlineError,
    InvalidInputError,
    RejectedError,
    RemoteProtocolError,
    StagelineError,
)
from stageline.framing import FrameReader

HELLO = p.ServerHello((1,), "s", "g", p.Limits(1000, 4, default_deadline_ms=2000.0), keepalive_s=1.0)


def say(core, message, *buffers):
    return core.received(core.reader.feed(b"".join(p.encode_frame(message, buffers))))


@pytest.fixture
def core():
    made = ClientCore(name="test", token="t", user="u")
    assert say(made, HELLO) == [Greeted(HELLO)]
    return made


def sent(pieces):
    (frame,) = FrameReader().feed(b"".join(pieces))
    return p.decode_to_server(frame.header), bytes(frame.body)


def test_the_greeting_says_who_we_are(core):
    assert sent(core.greeting()) == (p.ClientHello(1, "test", "t", "u"), b"")


def test_an_answer(core):
    answer = p.Result(5, (p.TensorSpec("y", "int8", (2, 1)),), batch=4, attempts=2)
    (event,) = say(core, answer, b"\5\6")
    assert isinstance(event, Finished)
    assert event.id == 5
    assert event.value.outputs["y"].tolist() == [[5], [6]]
    assert (event.value.batch, event.value.attempts) == (4, 2)


def test_what_only_newer_clients_know_is_skipped(core):
    header = msgspec.msgpack.encode({"t": "Rumour", "about": [1, {"a": None}]})
    assert core.received(core.reader.feed(p.PREFIX.pack(len(header), 3) + header + b"abc")) == []
    header = msgspec.msgpack.encode({"t": "Pong", "sequence": 1, "mood": "good"})
    assert core.received(core.reader.feed(p.PREFIX.pack(len(header), 0) + header)) == []
    assert isinstance(say(core, p.Error(3, "from_the_future", "?"))[0].value, StagelineError)
    header = msgspec.msgpack.encode({"t": "Pong", "sequence": "one"})
    with pytest.raises(RemoteProtocolError):
        core.received(core.reader.feed(p.PREFIX.pack(len(header), 0) + header))


def test_errors_regain_their_class(core):
    (event,) = say(core, p.Error(3, "rejected", "later", retry_after_ms=1500.0))
    assert isinstance(event.value, RejectedError)
    assert event.value.retry_after_s == 1.5
    (event,) = say(core, p.Error(3, "deadline", "too late"))
    assert isinstance(event.value, DeadlineError)
    (event,) = say(core, p.Error(0, "remote_protocol", "no"))
    assert isinstance(event, Broken)


@pytest.mark.parametrize(
    "message",
    [p.Result(1, (p.TensorSpec("y", "int8", (3,)),)), p.Result(1, (p.TensorSpec("y", "odd", (0,)),)), HELLO],
)
def test_a_server_that_breaks_the_protocol(core, message):
    with pytest.raises(RemoteProtocolError):
        say(core, message, *([b"12"] if isinstance(message, p.Result) else []))


def test_a_server_that_does_not_greet_or_speaks_another_version():
    with pytest.raises(RemoteProtocolError, match="begin with ServerHello"):
        say(ClientCore(), p.Pong())
    with pytest.raises(RemoteProtocolError, match="speaks protocol 2"):
        say(ClientCore(), p.ServerHello((2,), "s", "g", p.Limits(1, 1)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.int8(3), "no dimensions"),
        (["a"], "dtype str32, which models cannot take: use bool, "),
        (np.zeros((1, 2), np.complex64), "dtype complex64, which models cannot take"),
        (np.zeros(1, np.uint32), "dtype uint32"),
        (np.zeros(1, np.float128), "dtype float128"),
        (np.array([object()]), "dtype object"),
        (np.zeros(1, [("a", "i4")]), "which models cannot take"),
        (np.array(["2020-01-01"], "datetime64[D]"), "dtype datetime64"),
        ([[1, 2], [3]], "no array: its rows have different lengths"),
    ],
)
def test_what_is_no_tensor_is_refused_by_name(value, text):
    with pytest.raises(InvalidInputError, match="input 'x'") as caught:
        to_wire({"x": value})
    assert text in caught.value.message


def test_a_copy_does_not_follow_its_source():
    source = np.zeros(3, np.int8)
    _, (lent,) = to_wire({"x": source})
    _, (copied,) = to_wire({"x": source}, copy=True)
    source[:] = 7
    assert (bytes(lent), bytes(copied)) == (bytes([7] * 3), bytes(3))


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "http://host:1", "a:1,b:2", "a b:1"]
)
def test_addresses_that_are_none(text):
    with pytest.raises(ConfigError):
        parse_address(text)


@pytest.mark.parametrize("addresses", [None, 7710, [None], ["127.0.0.1:7710", 1]])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_address_at_all(kind, addresses):
    with pytest.raises(ConfigError, match="needs addresses of gateways such as"):
        kind(addresses)


@pytest.mark.parametrize("concurrency", [0, -1, "4", 1.5, None])
def test_how_many_requests_must_be_a_number_of_them(concurrency):
    with pytest.raises(ConfigError, match="concurrency must be a whole number of requests, at least 1, got "):
        check_concurrency(concurrency)


def test_addresses():
    assert parse_address("tcp://127.0.0.1:7710") == ("127.0.0.1", 7710)
    assert parse_address("[::1]:7710") == ("::1", 7710)


@given(
    st.sampled_from(sorted(NUMPY_NAME)),
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.randoms(),
)
def test_arrays_survive_the_wire(name, shape, transposed, swapped, random):
    size = int(np.prod(shape))
    array = np.array([random.randint(0, 1) for _ in range(size)]).astype(name).reshape(shape)
    array = array.T if transposed else array
    given_array = array.astype(array.dtype.newbyteorder(">")) if swapped else array
    (spec,), (data,) = to_wire({"x": given_array})
    back = from_wire(spec, memoryview(bytes(data)))
    assert (back.dtype.name, back.shape) == (array.dtype.name, array.shape)
    assert np.array_equal(back, array)


def test_bfloat16_becomes_float32():
    spec = p.TensorSpec("x", "bfloat16", (2,))
    assert from_wire(spec, memoryview(bytes.fromhex("803f20c0"))).tolist() == [1.0, -2.5]


def test_the_package_imports_without_numpy():
    code = "import sys, stageline, stageline_gateway.service; print({'numpy', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_the_clients_work_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import stageline; "
        "stageline.Client, stageline.AsyncClient, stageline.Retry; print('torch' in {*sys.modules} - {'torch'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
