"""The coordinator as a process: joining, serving a model, dying and coming back, and what it does with nonsense."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from stageline.blobs import BlobStore
from stageline.errors import BlobMissingError, ModelNotFoundError
from stageline.messages import CONTROL, Leaving, Prepare, Refused, Rejoin, Welcome
from stageline.plan import Digest, Plan
from stageline.sockets import Sockets
from stageline_coordinator.store import Store

from .conftest import Peer, Process, wait_until
from .models import Model, register, serving, two_blocks

Join = Callable[..., Peer]


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return two_blocks(BlobStore(tmp_path_factory.mktemp("model")))


def test_a_model_is_uploaded_planned_and_served(coordinator: Process, join: Join, model: Model) -> None:
    register(coordinator, model)
    peer = join()
    peer.hello()
    peer.until("the model is served", lambda: serving(peer, 1))
    assert peer.of(Welcome)[0].blobs == coordinator.ready["blobs"]
    assert peer.of(Digest)[-1].nodes[0].state == "alive"
    with coordinator.admin() as admin:
        assert admin.plan().models[0].stages[0].replicas[0].executor == "x1"
        assert [row.node for row in admin.nodes().nodes] == ["n0"]
        with pytest.raises(ModelNotFoundError):
            admin.remove_model("nothing")
        admin.remove_model("net")
        assert admin.models() == () and admin.plan().models == ()
    peer.until("the stage is retired", lambda: peer.loaded == ())


def test_a_model_whose_blobs_are_missing_is_refused_by_name(coordinator: Process, model: Model) -> None:
    store, sha = model
    with coordinator.admin() as admin:
        admin.upload(store, [sha])
        with pytest.raises(BlobMissingError, match="upload every blob"):
            admin.put_model(sha)


def test_killed_and_restarted_it_resumes_the_plan_under_a_higher_term(
    coordinator: Process, join: Join, model: Model
) -> None:
    register(coordinator, model)
    peer = join()
    peer.hello()
    peer.until("the model is served", lambda: serving(peer, 1))
    addresses = {key: coordinator.ready[key] for key in ("control", "plan", "blobs")}
    seen = peer.of(Plan)[-1]
    coordinator.kill()
    with Store(coordinator.data_dir) as store:
        before = store.plan()
    assert before is not None and before.epoch >= seen.epoch, "it was on disk before it was said"
    coordinator.start()
    assert {key: coordinator.ready[key] for key in addresses} == addresses
    with coordinator.admin() as admin:
        assert admin.plan() == before
    peer.hello()
    peer.until("the plan is published under the new term", lambda: serving(peer, 2))
    assert before.models in [plan.models for plan in peer.of(Plan) if plan.term > before.term] and peer.loaded
    assert not [prepare for prepare in peer.of(Prepare) if prepare.term > before.term]


def test_without_its_worker_a_restarted_coordinator_says_so_and_resumes_when_it_comes(
    coordinator: Process, join: Join, model: Model
) -> None:
    register(coordinator, model)
    peer = join()
    peer.hello()
    peer.until("the model is served", lambda: serving(peer, 1))
    coordinator.kill()
    with Store(coordinator.data_dir) as store:
        before = store.plan()
    assert before is not None
    coordinator.start()
    with coordinator.admin() as admin:
        wait_until("the model is unavailable", lambda: admin.models()[0].status == "unavailable")
        assert "no workers" in admin.models()[0].reason
    peer.hello()
    peer.until("the plan is published under the new term", lambda: serving(peer, 2))
    assert next(plan.models for plan in peer.of(Plan) if plan.term > before.term) == before.models
    assert not [prepare for prepare in peer.of(Prepare) if prepare.term > before.term]


def test_a_broken_connection_is_noticed_and_a_silent_peer_too(coordinator: Process, join: Join) -> None:
    gone, silent = join(name="gone"), join(name="silent")
    for peer in (gone, silent):
        peer.hello()
        peer.until("it is welcome", lambda peer=peer: peer.of(Welcome))
    gone.sockets.release(gone.socket)
    silent.answers = False

    def states() -> dict[str, str]:
        digests = silent.of(Digest)
        return {view.node: view.state for view in digests[-1].nodes} if digests else {}

    silent.until("both are gone", lambda: states() == {"gone": "gone", "silent": "gone"})
    silent.answers = True
    silent.say(Leaving(name="silent"))  # anything: it is asked to say hello
    silent.until("it comes back", lambda: states().get("silent") == "alive" and silent.of(Rejoin))


def test_a_second_process_of_the_same_name_is_refused(coordinator: Process, join: Join) -> None:
    first = join()
    first.hello()
    first.until("it is welcome", lambda: first.of(Welcome))
    second = join(incarnation="i2")
    second.hello()
    second.until("it is refused", lambda: second.of(Refused))
    assert "duplicate node name" in second.of(Refused)[0].message


def test_nonsense_is_dropped_and_the_rest_goes_on(coordinator: Process, join: Join) -> None:
    sockets = Sockets()
    try:
        for identity in (b"admin:\xff\xfe", b"agent:", b"agent:x", b"\x00" * 8, b"gateway:" + b"g" * 200):
            peer_socket = sockets.connect(CONTROL, coordinator.control, identity=identity)
            for frames in ([b""], [b"\xc1"], [b"\x80"], [b"a", b"b"], [b"\x81\xa1t\xa5Hello"], [b"\xff" * 100_000]):
                peer_socket.send_multipart(frames)
        peer = join()
        peer.hello()
        peer.until("it is welcome", lambda: peer.of(Welcome))
    finally:
        sockets.close()
    wait_until("the log tells", lambda: "message dropped" in coordinator.log())


ZMTP_2 = b"\xff" + bytes(7) + b"\x01\x7f" + b"\x01\x05" + b"\x00\x07agent:x" + b"\x00\x02hi"
"""Greeting (version 2, DEALER), identity, a message."""
ZMTP_1 = b"\x08\x00agent:x" + b"\x03\x00hi"


@pytest.mark.parametrize("stream", [ZMTP_1, ZMTP_2], ids=["ZMTP 1", "ZMTP 2"])
def test_a_message_over_an_old_zmtp_is_dropped_and_the_rest_goes_on(
    coordinator: Process, join: Join, stream: bytes
) -> None:
    host, port = coordinator.control.removeprefix("tcp://").rsplit(":", 1)
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(stream)
        wait_until("the log tells", lambda: "old version of ZMTP" in coordinator.log())
    peer = join()
    peer.hello()
    peer.until("it is welcome", lambda: peer.of(Welcome))


def test_two_coordinators_on_one_directory_are_refused(coordinator: Process) -> None:
    second = coordinator.spawn()
    assert second.wait(30) == 1
    assert f"pid {coordinator.child.pid}" in coordinator.log()


def test_ports_http_and_a_clean_end(coordinator: Process) -> None:
    with urllib.request.urlopen(coordinator.ready["http"] + "/readyz") as reply:
        assert json.load(reply)["ready"] is True
    with urllib.request.urlopen(coordinator.ready["http"] + "/metrics") as reply:
        text = reply.read().decode()
    for name in ("term 1.0", "plan_version", "nodes", "models", "replans", "solve_seconds", "evictions"):
        assert f"stageline_coordinator_{name}" in text
    status = Path(f"/proc/{coordinator.child.pid}/status").read_text()
    resident_kb = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident_kb < 80_000
    maps = Path(f"/proc/{coordinator.child.pid}/maps").read_text()
    assert "numpy" not in maps and "torch" not in maps
    coordinator.child.send_signal(signal.SIGINT)
    assert coordinator.child.wait(30) == 0
