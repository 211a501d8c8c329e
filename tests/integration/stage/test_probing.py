"""Link measurements between real sockets: two workers at once, a gateway's port, nonsense, silence, closing."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec
import pytest

from stageline import logs
from stageline.messages import MAX_BALLAST_BYTES, PROBE, Probe, Probed, ProbeReply, ProbeRequest
from stageline.plan import Endpoint
from stageline.sockets import Sockets, host_key
from stageline.wire import Decoder, encode
from stageline_gateway.probes import ProbePort
from stageline_stage import probing
from stageline_stage.probing import Prober

LOG = logs.get(service="test")
DEADLINE_S = 30.0


@contextmanager
def prober() -> Iterator[Prober]:
    with closing(Sockets()) as sockets, closing(Prober(sockets, "127.0.0.1", host_key(), LOG)) as made:
        yield made


def result(of: Prober) -> Probed:
    ready, _, _ = select.select([of.fileno()], [], [], DEADLINE_S)
    assert ready, "no result in time"
    (found,) = of.results()
    return found


def request(endpoint: Endpoint, peer: str = "agent:b") -> ProbeRequest:
    return ProbeRequest(peer=peer, endpoint=endpoint, budget_s=0.01)


def check(found: Probed) -> None:
    link = found.link
    assert link is not None, found.error
    assert 0 < link.rtt_s < 1 and link.out_bytes_per_s > 1e6 and link.in_bytes_per_s > 1e6
    assert min(link.rtt_error, link.out_error, link.in_error) >= 0


@pytest.mark.parametrize("over", ["tcp", "ipc"])
def test_two_workers_measure_each_other_at_the_same_time(over: str) -> None:
    with prober() as a, prober() as b:
        ends = [Endpoint(tcp=one.endpoint.tcp) if over == "tcp" else one.endpoint for one in (a, b)]
        a.probe(request(ends[1]))
        b.probe(request(ends[0], "agent:a"))
        for one in (a, b):
            check(result(one))


def test_a_gateway_answers_from_its_loop() -> None:
    async def measure() -> Probed:
        loop = asyncio.get_running_loop()
        with closing(Sockets()) as sockets, prober() as worker:
            port = ProbePort(loop, sockets, "127.0.0.1", LOG)
            worker.probe(request(port.endpoint, "gateway:g"))
            found = await loop.run_in_executor(None, result, worker)
            port.close()
            return found

    found = asyncio.run(measure())
    check(found)
    assert found.peer == "gateway:g"


def test_silence_is_an_error_and_the_next_link_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "SILENT_S", 0.2)
    with prober() as worker, prober() as other, closing(Sockets()) as sockets:
        mute, endpoint = sockets.bind_data("127.0.0.1", PROBE)
        worker.probe(request(endpoint, "agent:mute"))
        worker.probe(request(Endpoint(tcp="nonsense"), "agent:odd"))
        worker.probe(request(other.endpoint))
        found: list[Probed] = []
        while len(found) < 3:
            select.select([worker.fileno()], [], [], DEADLINE_S)
            found += worker.results()
        assert mute.poll(0), "it was asked"
        assert [bool(one.error) for one in found] == [True, True, False]
        assert "no answer within" in found[0].error


def test_nonsense_is_dropped_and_excess_refused() -> None:
    with prober() as worker, closing(Sockets()) as sockets:
        socket = sockets.connect(PROBE, worker.endpoint.tcp)
        decode: Decoder[ProbeReply] = Decoder(ProbeReply)
        greedy = encode(Probe(id=2, want=MAX_BALLAST_BYTES + 1))
        negative = msgspec.msgpack.encode({"t": "Probe", "id": 3, "want": -1})
        for frames in ([b"nonsense"], [greedy], [negative], [encode(Probe(id=4)), b"", b"third"]):
            socket.send_multipart(frames)
        socket.send_multipart([encode(Probe(id=5, want=7)), b"ballast"])
        assert socket.poll(round(DEADLINE_S * 1000))
        header, ballast = socket.recv_multipart()
        assert decode(header).id == 5 and ballast == bytes(7)


def test_closing_ends_a_measurement_under_way() -> None:
    with closing(Sockets()) as sockets:
        mute, endpoint = sockets.bind_data("127.0.0.1", PROBE)
        with prober() as worker:
            worker.probe(request(endpoint))
            assert mute.poll(round(DEADLINE_S * 1000))
