"""Two coordinators: one leads, the other has everything and takes over when it dies; neither loses what was said."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageline.admin import AdminClient
from stageline.blobs import BlobStore
from stageline.coordinators import number_of
from stageline.errors import NoClusterError
from stageline.manifest import ModelManifest
from stageline.messages import Prepare, Refused, Welcome
from stageline.plan import Plan
from stageline_coordinator.service import STOOD_STILL_S
from stageline_coordinator.store import Store

from .conftest import Peer, Process, wait_until
from .models import Model, register, serving, two_blocks


class Two:
    """The one that founded the cluster, and the one that stands by for it; a peer that talks to either."""

    def __init__(self, folder: Path) -> None:
        for name in ("first", "second"):
            (folder / name).mkdir()
        self.first = Process(folder / "first")
        self.second = Process(folder / "second", standby_of=self.first.control)
        self.peers: list[Peer] = []

    @property
    def both(self) -> str:
        return f"{self.first.control},{self.second.control}"

    def admin(self) -> AdminClient:
        return AdminClient(self.both)

    def join(self, process: Process) -> Peer:
        self.peers.append(Peer(process.control, process.ready["plan"]))
        self.peers[-1].hello()
        return self.peers[-1]

    def in_step(self) -> bool:
        with self.admin() as admin:
            row = admin.nodes().standby
        return row is not None and (row.state, row.behind) == ("alive", 0) and ready(self.second)

    def close(self) -> None:
        for peer in self.peers:
            peer.sockets.close()
        for process in (self.first, self.second):
            if process.child.poll() is None:
                process.child.send_signal(signal.SIGCONT)
                assert process.stop() == 0, process.log()
            assert "Traceback" not in process.log()


def ready(process: Process) -> bool:
    try:
        with urllib.request.urlopen(process.ready["http"] + "/readyz") as reply:
            return bool(json.load(reply)["ready"])
    except OSError:
        return False


def metric(process: Process, name: str) -> float:
    with urllib.request.urlopen(process.ready["http"] + "/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"stageline_coordinator_{name} ")).split()[1])


def planner(process: Process) -> str:
    """The process ids of its children."""
    return Path(f"/proc/{process.child.pid}/task/{process.child.pid}/children").read_text()


def leading_term(two: Two) -> int:
    with two.admin() as admin:
        return admin.nodes().term


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path)
    yield made
    made.close()


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return two_blocks(BlobStore(tmp_path_factory.mktemp("model")))


def test_the_standby_has_what_was_acknowledged_when_it_was(two: Two, model: Model) -> None:
    wait_until("the standby is in step", two.in_step)
    store, sha = model
    manifest = ModelManifest.from_json(json.loads(store.read(sha)))
    with two.admin() as admin:
        admin.upload(store, [*manifest.blobs(), sha])
        admin.put_model(sha)
    two.first.kill()
    two.second.kill()
    with Store(two.second.data_dir) as theirs:
        assert theirs.models() == {"net": sha}
        for blob in (*manifest.blobs(), sha):
            theirs.blobs.verify(blob)


def test_it_takes_over_when_the_leader_is_killed(two: Two, model: Model) -> None:
    register(two.first, model)
    peer = two.join(two.first)
    peer.until("the model is served", lambda: serving(peer, 1))
    before, loaded = peer.of(Plan)[-1], peer.loaded
    wait_until("the standby is in step", two.in_step)
    ready_to_plan = planner(two.second)
    two.first.kill()
    heir = two.join(two.second)
    heir.loaded = loaded
    heir.until("it leads", lambda: heir.of(Welcome) or (heir.of(Refused) and heir.hello()))
    welcome = heir.of(Welcome)[0]
    assert number_of(welcome.term) == 2 and welcome.term > before.term
    heir.until("the plan goes on", lambda: serving(heir, welcome.term))
    plan = [plan for plan in heir.of(Plan) if plan.term == welcome.term][-1]
    assert [stage.replicas for stage in plan.models[0].stages] == [s.replicas for s in before.models[0].stages]
    assert not heir.of(Prepare)
    assert ready_to_plan and planner(two.second) == ready_to_plan, "the planner was there, and went on"
    with two.admin() as admin:
        admin.remove_model("net")
        assert admin.models() == ()
        row = admin.nodes().standby
        assert row is not None and row.state == "gone"
    two.first.start()
    wait_until("the old leader has caught up", lambda: metric(two.second, "partner_behind") == 0 and ready(two.first))
    in_step = "the standby is in step"
    wait_until("it has heard all that the heir said since", lambda: two.first.log().count(in_step) == 2)
    wait_until("they agree", lambda: (metric(two.first, "leads"), metric(two.second, "leads")) == (0, 1))
    assert number_of(leading_term(two)) == 2
    assert two.first.stop() == 0
    with Store(two.first.data_dir) as store:
        assert store.models() == {}


def test_a_frozen_leader_that_wakes_up_steps_down(two: Two) -> None:
    peer = two.join(two.first)
    peer.until("it is welcome", lambda: peer.of(Welcome))
    wait_until("the standby is in step", two.in_step)
    os.kill(two.first.child.pid, signal.SIGSTOP)
    heir = two.join(two.second)
    heir.until("it leads", lambda: heir.of(Welcome) or (heir.of(Refused) and heir.hello()))
    os.kill(two.first.child.pid, signal.SIGCONT)
    peer.until("the old one says that it stands by", lambda: peer.of(Refused))
    refused = peer.of(Refused)[-1]
    assert (refused.code, refused.leader) == ("not_leading", two.second.control)
    wait_until("they agree", lambda: (metric(two.first, "leads"), metric(two.second, "leads")) == (0, 1))
    assert number_of(leading_term(two)) == 2


def test_a_leader_that_stood_still_asks_the_other_before_it_goes_on(two: Two) -> None:
    """Nobody has called the standby meanwhile, so the old one leads again, under another term."""
    peer = two.join(two.first)
    peer.until("it is welcome", lambda: peer.of(Welcome))
    wait_until("the standby is in step", two.in_step)
    os.kill(two.first.child.pid, signal.SIGSTOP)
    until = time.monotonic() + 2 * STOOD_STILL_S
    wait_until("it stood still for long", lambda: time.monotonic() > until)
    os.kill(two.first.child.pid, signal.SIGCONT)
    peer.until("it sends who follows it to the other", lambda: peer.of(Refused))
    assert (peer.of(Refused)[0].code, peer.of(Refused)[0].leader) == ("not_leading", two.second.control)
    wait_until("it leads again", lambda: (metric(two.first, "leads"), metric(two.second, "leads")) == (1, 0))
    assert number_of(leading_term(two)) == 2


def test_the_one_that_led_last_leads_again_after_both_died(two: Two, model: Model) -> None:
    register(two.first, model)
    wait_until("the standby is in step", two.in_step)
    two.first.kill()
    two.second.kill()
    two.second.start()
    two.first.start()
    wait_until("both are there", two.in_step)
    wait_until("they agree", lambda: (metric(two.first, "leads"), metric(two.second, "leads")) == (1, 0))
    with two.admin() as admin:
        assert [row.name for row in admin.models()] == ["net"]


def test_what_each_acknowledged_alone_is_kept_by_both(
    two: Two, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wait_until("the standby is in step", two.in_step)
    peer = two.join(two.first)
    peer.until("it is welcome", lambda: peer.of(Welcome))
    two.second.kill()
    register(two.first, model)
    two.first.kill()
    two.second.start()
    heir = two.join(two.second)
    heir.until("it leads", lambda: heir.of(Welcome) or (heir.of(Refused) and heir.hello()))
    register(two.second, two_blocks(BlobStore(tmp_path_factory.mktemp("other")), "other"))
    two.first.start()

    def names() -> set[str]:
        with two.admin() as admin:
            return {row.name for row in admin.models()}

    wait_until("the leader has both", lambda: names() == {"net", "other"})
    wait_until("they are in step", lambda: all(metric(one, "partner_behind") == 0 for one in (two.first, two.second)))
    for process in (two.first, two.second):
        process.kill()
        with Store(process.data_dir) as store:
            assert set(store.models()) == {"net", "other"}


def test_a_standby_that_has_nothing_does_not_lead(tmp_path: Path) -> None:
    process = Process(tmp_path, standby_of="tcp://127.0.0.1:9")
    peer = Peer(process.control, process.ready["plan"])
    try:
        peer.hello()
        peer.until("it is refused", lambda: peer.of(Refused))
        with pytest.raises(NoClusterError, match=r"nobody leads: .* stands by"):
            AdminClient(process.control, timeout_s=1.0)
        assert not ready(process)
    finally:
        peer.sockets.close()
        assert process.stop() == 0, process.log()
