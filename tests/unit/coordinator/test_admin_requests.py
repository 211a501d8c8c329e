"""What an administrator asks for and may not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet

from stageline.messages import Done, ErrorReply, RemoveNode
from stageline_coordinator import events
from stageline_coordinator.admin_requests import AdminRequests
from stageline_coordinator.detector import PeerState
from stageline_coordinator.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as opened:
        yield opened


def test_only_a_worker_that_is_gone_can_be_removed(store: Store) -> None:
    made = Fleet()
    admin = AdminRequests(made.cluster, store)
    made.join("n0")

    def refused(name: str) -> str:
        reply, event = admin.answer(RemoveNode(id=3, name=name), made.now)
        assert isinstance(reply, ErrorReply) and (reply.id, reply.code, event) == (3, "cluster", None)
        return reply.message

    assert refused("n1") == "no worker is called 'n1'; there are: n0"
    assert "worker 'n0' is alive: stop it first" in refused("n0")
    made.handle(events.PeerChanged("agent:n0", PeerState.SUSPECT))
    assert "worker 'n0' is suspect" in refused("n0")
    made.lose("n0")
    assert admin.answer(RemoveNode(id=4, name="n0"), made.now) == (Done(id=4), events.NodeRemoved("n0"))
