"""What an administrator asks for and may not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, manifest

from stageline.messages import (
    Done,
    ErrorReply,
    ListModels,
    ListNodes,
    ModelList,
    NodeList,
    RemoveNode,
    SetObjective,
    SetWishes,
)
from stageline.wishes import Wishes
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


def test_wishes_are_checked_kept_and_listed(store: Store) -> None:
    made = Fleet()
    admin = AdminRequests(made.cluster, store)
    made.add(manifest())

    def ask(model: str, wishes: Wishes, *unset: str) -> str:
        reply, event = admin.answer(SetWishes(id=5, model=model, wishes=wishes, unset=unset), made.now)
        if event is not None:
            assert reply == Done(id=5)
            made.handle(event)
            return ""
        assert isinstance(reply, ErrorReply)
        return f"{reply.code}: {reply.message}"

    assert ask("other", Wishes(priority=2.0)) == "model_not_found: no model 'other' is registered; there are: net"
    assert ask("net", Wishes(priority=-1.0)).startswith("config: priority: must be 0 or between")
    assert store.wishes() == {} and made.cluster.wanted.models == {}
    assert ask("net", Wishes(priority=2.0, forbidden=("a", "b"))) == ""
    assert ask("net", Wishes(forbidden=("c",)), "priority") == ""
    assert store.wishes() == {"net": Wishes(forbidden=("c",))}
    listed, _ = admin.answer(ListModels(id=6), made.now)
    assert isinstance(listed, ModelList) and listed.models[0].wishes == Wishes(forbidden=("c",))


def test_the_objective_is_checked_kept_and_listed(store: Store) -> None:
    made = Fleet()
    admin = AdminRequests(made.cluster, store)
    reply, event = admin.answer(SetObjective(id=7, objective="cheap"), made.now)
    assert isinstance(reply, ErrorReply) and reply.code == "config" and event is None
    reply, event = admin.answer(SetObjective(id=8, objective="weighted"), made.now)
    assert reply == Done(id=8) and event == events.ObjectiveSet("weighted")
    made.handle(event)
    listed, _ = admin.answer(ListNodes(id=9), made.now)
    assert isinstance(listed, NodeList)
    assert listed.objective == store.objective() == "weighted"
