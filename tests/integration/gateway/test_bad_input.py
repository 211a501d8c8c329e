"""Everything that a client can get wrong: each is told what and what to do, and the connection goes on unless its
framing is broken. Others are served meanwhile, and nothing is left behind."""

from __future__ import annotations

import random
import re
import threading

import msgspec
import numpy as np
import pytest

from stageline import Client
from stageline import protocol as p

X = {"x": np.ones((1, 4), np.float32)}
F32 = ("x", "float32", (1, 4))


def infer(*specs, **more):
    return p.Infer(more.pop("id", 1), more.pop("model", "m"), tuple(p.TensorSpec(*s) for s in specs), **more)


def still_usable(client):
    client.send(p.Ping(77))
    assert client.next() == p.Pong(77)
    client.send(infer(F32, id=99), np.ones(4, np.float32).tobytes())
    assert client.next().id == 99


REQUESTS = {
    "unknown model": (infer(F32, model="nope"), 16, "model_not_found", "no model is called 'nope'; known: m"),
    "wrong name": (infer(("y", "float32", (1, 4))), 16, "invalid_input", "the model's inputs are 'x', got 'y'"),
    "no input": (infer(), 0, "invalid_input", "the model's inputs are 'x', got none"),
    "an input twice": (infer(F32, F32), 32, "invalid_input", "the model's inputs are 'x', got 'x', 'x'"),
    "one too many": (infer(F32, ("z", "bool", (1,))), 17, "invalid_input", "are 'x', got 'x', 'z'"),
    "wrong dtype": (infer(("x", "float64", (1, 4))), 32, "invalid_input", "'x' must be float32, got float64"),
    "unknown dtype": (infer(("x", "float31", (1, 4))), 16, "invalid_input", "'x': dtype 'float31' is not allowed"),
    "wrong shape": (infer(("x", "float32", (1, 5))), 20, "invalid_input", "shape (batch, 4), got (1, 5)"),
    "wrong rank": (infer(("x", "float32", (4,))), 16, "invalid_input", "shape (batch, 4), got (4,)"),
    "empty batch": (infer(("x", "float32", (0, 4))), 0, "invalid_input", "batch must be from 1 to 64, got 0"),
    "batch too large": (infer(("x", "float32", (65, 4))), 65 * 16, "invalid_input", "from 1 to 64, got 65"),
    "too few bytes": (infer(F32), 15, "invalid_input", "'x': float32 of shape (1, 4) needs 16 bytes, got 15"),
    "too many bytes": (infer(F32), 17, "invalid_input", "the tensors take 16 bytes, but the body has 17"),
    "no bytes": (infer(F32), 0, "invalid_input", "needs 16 bytes, got 0"),
    "negative size": (infer(("x", "float32", (-1, -4))), 16, "invalid_input", "has a negative size"),
    "huge size": (infer(("x", "float32", (1 << 62, 1 << 62))), 16, "invalid_input", "bytes, got 16"),
    "rank 64": (infer(("x", "float32", (1,) * 64)), 4, "invalid_input", "at most 16 dimensions, this one 64"),
    "300 tensors": (infer(*[("x", "bool", (0,))] * 300), 0, "invalid_input", "at most 256 are allowed"),
    "past deadline": (infer(F32, deadline_ms=-20.0), 16, "deadline", "passed 20 ms before the request was sent"),
    "odd deadline": (infer(F32, deadline_ms=float("inf")), 16, "invalid_input", "a number of milliseconds, got inf"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_wrong_request_ends_alone(serving, raw, name):
    message, size, code, text = REQUESTS[name]
    with raw(serving.client) as client:
        client.greet()
        client.send(message, bytes(size))
        error = client.next()
        assert isinstance(error, p.Error)
        assert (error.id, error.code) == (1, code)
        assert text in error.message
        still_usable(client)


def test_nan_and_infinity_are_values(serving):
    odd = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    with Client(serving.client) as client:
        assert np.array_equal(client.infer("m", {"x": odd}).outputs["y"], odd + 2, equal_nan=True)


@pytest.mark.parametrize("body", [1001, 1 << 22])
def test_a_body_over_the_limit_ends_its_request_only(cluster, start_gateway, eventually, raw, body):
    cluster.add("a")
    cluster.publish([["a"]])
    gateway = start_gateway(max_request_bytes=1000)
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    with raw(gateway.client) as client:
        assert client.greet().limits.max_request_bytes == 1000
        client.send(infer(F32), bytes(body))
        error = client.next()
        assert (error.id, error.code) == (1, "invalid_input")
        assert f"has {body} bytes, this gateway takes 1000: send a smaller batch" in error.message
        still_usable(client)


def test_too_many_in_flight_are_turned_away_with_a_time_to_come_back(cluster, start_gateway, eventually, raw):
    cluster.add("a")
    cluster.publish([["a"]])
    gateway = start_gateway(max_in_flight=3)
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    cluster.set_mode("a", "late")
    with raw(gateway.client) as client:
        assert client.greet().limits.max_in_flight == 3
        for i in range(1, 5):
            client.send(infer(F32, id=i), bytes(16))
        error = client.next()
        assert (error.id, error.code) == (4, "rejected")
        assert error.retry_after_ms > 0
        assert "3 requests are in flight, which is the limit: try again later" in error.message
        eventually(lambda: sum(len(b.ids) for b, _ in cluster.executors["a"].held) >= 1, "dispatched")
        cluster.set_mode("a", "run")
        cluster.call(cluster.executors["a"].release)
        assert {client.next().id for _ in range(3)} == {1, 2, 3}
        still_usable(client)


def header(**fields):
    return msgspec.msgpack.encode(fields)


def framed(data, body=b"", length=None):
    return p.PREFIX.pack(len(data) if length is None else length, len(body)) + data + body


BROKEN = {
    "an ext type": framed(header(t="Cancel", id=msgspec.msgpack.Ext(5, b"x"))),
    "an ext timestamp": framed(header(t="Ping", sequence=msgspec.msgpack.Ext(-1, bytes(4)))),
    "no map": framed(header(t="Ping")[1:]),
    "no tag": framed(header(id=1)),
    "an unknown message": framed(header(t="Pickle")),
    "a server's message": framed(header(t="Pong")),
    "id 0": framed(header(t="Cancel", id=0)),
    "a negative id": framed(header(t="Cancel", id=-1)),
    "an id beyond 63 bits": framed(header(t="Cancel", id=1 << 63)),
    "a string for a number": framed(header(t="Cancel", id="1")),
    "broken UTF-8": framed(b"\x82\xa1t\xa5Infer\xa5model\xa1\xff"),
    "more than a message": framed(header(t="Ping") + b"\xc0"),
    "nested a thousand times": framed(b"\x81\xa1t" + b"\x91" * 1000),
    "a map of four billion": framed(b"\xdf\xff\xff\xff\xff"),
    "a string of four billion bytes": framed(b"\x81\xa1t\xdb\xff\xff\xff\xff"),
    "a header of 0 bytes": framed(b""),
    "a header of 65537 bytes": framed(bytes(65537)),
    "a header of four billion bytes": b"\xff\xff\xff\xff\0\0\0\0",
    "a body where none belongs": framed(header(t="Ping"), b"12"),
    "a large body where none belongs": framed(header(t="Ping"), bytes(100_000)),
    "a second hello": framed(header(t="ClientHello", version=1)),
    "HTTP": b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(40),
}


MISTYPED = {
    "a missing field": (header(t="Infer", id=1), "inputs|model"),
    "a priority beyond 32 bits": (header(t="Infer", id=1, model="m", inputs=[], priority=1 << 40), "priority"),
    "bytes for a string": (header(t="Infer", id=1, model=b"m", inputs=[]), "model"),
    "half a size": (header(t="Infer", id=1, model="m", inputs=[["x", "float32", [1.5, 4]]]), "inputs"),
}


@pytest.mark.parametrize("name", MISTYPED)
@pytest.mark.parametrize("body", [0, 16, 100_000])
def test_a_request_of_wrong_types_ends_alone(serving, raw, name, body):
    data, field = MISTYPED[name]
    with raw(serving.client) as client:
        client.greet()
        client.socket.sendall(framed(data, bytes(body)))
        error = client.next()
        assert isinstance(error, p.Error)
        assert (error.id, error.code) == (1, "invalid_input")
        assert re.search(field, error.message)
        still_usable(client)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_framing_is_told_and_closed(serving, raw, name):
    with raw(serving.client) as other, raw(serving.client) as client:
        other.greet()
        client.greet()
        client.socket.sendall(BROKEN[name])
        error = client.next()
        assert isinstance(error, p.Error)
        assert (error.id, error.code) == (0, "remote_protocol")
        assert error.message
        assert "Traceback" not in error.message
        assert client.next() is None
        still_usable(other)


def test_random_bytes_never_harm_anybody_else(serving, raw, eventually):
    chance = random.Random(7)
    good = b"".join(p.encode_frame(infer(F32), [bytes(16)]))
    with raw(serving.client) as other:
        other.greet()
        for i in range(60):
            with raw(serving.client) as client:
                client.greet()
                data = bytearray(good if i % 2 else chance.randbytes(chance.randint(1, 200)))
                for _ in range(chance.randint(1, 4)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                client.socket.sendall(bytes(data[: chance.randint(1, len(data))]))
        still_usable(other)
    eventually(lambda: serving.metric("stageline_gateway_in_flight") == 0, "nothing is left")
    assert "defect" not in serving.log.read_text()


@pytest.fixture
def hasty(cluster, start_gateway, eventually):
    """A gateway with little patience and little room for what it receives."""
    cluster.add("a")
    cluster.publish([["a"]], width=1 << 16)
    gateway = start_gateway(client_timeout_s=0.5, receive_bytes=1 << 18)
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    return gateway


WIDE = infer(("x", "float32", (1, 1 << 16)))
WIDE_FRAME = b"".join(p.encode_frame(WIDE, [bytes(1 << 18)]))


@pytest.mark.parametrize("sent", [3, 8, 20, 70, 100_000, len(WIDE_FRAME) - 1])
def test_a_client_that_stops_in_the_middle_of_a_frame_is_dropped(hasty, raw, sent):
    with raw(hasty.client) as client, raw(hasty.client) as other:
        client.greet()
        other.greet()
        client.socket.sendall(WIDE_FRAME[:sent])
        other.send(p.Ping(1))
        assert other.next() == p.Pong(1)
        error = client.next()
        assert (error.id, error.code) == (0, "remote_protocol")
        assert "a frame was begun, but only" in error.message
        assert client.next() is None
        other.send(p.Ping(2))
        assert other.next() == p.Pong(2)


def test_who_waits_for_room_gets_it_when_a_stalled_client_is_dropped(hasty, raw):
    with raw(hasty.client) as stalled, raw(hasty.client) as client:
        stalled.greet()
        client.greet()
        stalled.socket.sendall(WIDE_FRAME[: 1 << 17])
        client.socket.sendall(WIDE_FRAME)
        assert client.next().id == 1
        assert stalled.next().code == "remote_protocol"


def test_many_large_requests_share_the_room(hasty):
    wide = {"x": np.ones((1, 1 << 16), np.float32)}

    def ask(found):
        with Client(hasty.client) as client:
            for _ in range(5):
                found.append(bool((client.infer("m", wide).outputs["y"] == 2).all()))

    found: list[bool] = []
    threads = [threading.Thread(target=ask, args=(found,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 30


def test_a_client_that_only_waits_is_left_alone(hasty, raw, cluster, eventually):
    """Silence between frames is no stall; nor is waiting for a slow answer."""
    cluster.set_mode("a", "late")
    with raw(hasty.client) as client, raw(hasty.client) as timer:
        client.greet()
        client.socket.sendall(WIDE_FRAME)
        eventually(lambda: cluster.executors["a"].held, "it waits")
        timer.greet()
        timer.socket.sendall(WIDE_FRAME[:3])
        assert timer.next().code == "remote_protocol"  # the patience has passed meanwhile
        cluster.set_mode("a", "run")
        cluster.call(cluster.executors["a"].release)
        assert client.next().id == 1


def test_a_client_that_does_not_read_is_dropped_in_time(hasty, raw, eventually):
    with raw(hasty.client) as client:
        client.greet()
        client.socket.settimeout(20)
        with pytest.raises(OSError):
            for i in range(1, 1000):
                client.send(msgspec.structs.replace(WIDE, id=i), bytes(1 << 18))
    with Client(hasty.client) as other:
        assert other.describe()
    eventually(lambda: hasty.metric("stageline_gateway_in_flight") == 0, "nothing is left")


def test_a_client_that_says_nothing_is_dropped_after_the_handshakes_time(serving, raw):
    with raw(serving.client) as client:
        assert isinstance(client.next(), p.ServerHello)
        error = client.next()
        assert (error.id, error.code) == (0, "remote_protocol")
        assert "no ClientHello within 5 s" in error.message
        assert client.next() is None


def test_a_half_closed_connection_is_given_up(serving, raw, cluster, eventually):
    cluster.set_mode("a", "hold")
    with raw(serving.client) as client:
        client.greet()
        client.send(infer(F32), bytes(16))
        eventually(lambda: serving.metric("stageline_gateway_in_flight") == 1, "in flight")
        client.socket.shutdown(1)
        eventually(lambda: serving.metric("stageline_gateway_in_flight") == 0, "cancelled")
        assert client.next() is None
