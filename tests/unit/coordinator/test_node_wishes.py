"""Workers that are cordoned, drained and labelled: what plans do about it, and that it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import MB, Fleet, manifest

from stageline.messages import Done, ErrorReply, ListNodes, NodeList, RemoveNode, SetNode, SetWishes
from stageline.nodewishes import NodeWishes
from stageline.plan import StageKey
from stageline.wishes import Wishes
from stageline_coordinator import events
from stageline_coordinator.admin_requests import AdminRequests
from stageline_coordinator.cluster import Memory
from stageline_coordinator.recall import recall
from stageline_coordinator.store import Store


def want(made: Fleet, node: str, duty: str = "open", **labels: str) -> None:
    made.handle(events.NodeSet(node, NodeWishes(duty=duty, labels=labels)))  # type: ignore[arg-type]


def used(made: Fleet, model: str = "net") -> set[str]:
    return {replica.node for stage in made.model(model).stages for replica in stage.replicas}


def keys(made: Fleet, node: str) -> set[StageKey]:
    return {m.key(stage) for m in made.plan.models for stage in m.stages for r in stage.replicas if r.node == node}


def fleet(*names: str, blocks: int = 4, weights: int = MB, standbys: int = 0) -> Fleet:
    """Workers with room for all of a model of 10 ms a block."""
    made = Fleet(standbys=standbys)
    made.add(manifest(blocks=blocks, weights=weights))
    for name in names:
        made.join(name)
    assert made.model().status == "serving"
    return made


def test_a_cordoned_worker_keeps_what_it_has_and_gets_nothing_new() -> None:
    made = fleet("a", "b")
    held = keys(made, "a")
    before = made.plan.models
    want(made, "a", "cordoned")
    assert made.plan.models == before  # what it serves stays
    made.add(manifest("other", blocks=2, weights=MB))
    assert used(made, "other") == {"b"} and keys(made, "a") == held
    made.lose("b")
    assert made.model("other").status == made.model().status == "unavailable"  # rather than something new for a
    want(made, "a")
    assert used(made) == used(made, "other") == {"a"}


def test_a_cordoned_newcomer_stays_empty() -> None:
    made = fleet("a")
    want(made, "b", "cordoned")
    made.join("b", speed=9.0)
    made.handle(events.ModelRemoved("net"))
    made.add(manifest(weights=MB))
    assert used(made) == {"a"} and made.agents["b"].loaded == ()
    want(made, "b")
    assert "b" in used(made)


def test_what_a_worker_is_loading_when_it_is_cordoned_is_not_served() -> None:
    made = fleet("a")
    made.deliver = False
    made.join("b", speed=9.0)
    assert made.cluster.plan.model("net") == made.model() and used(made) == {"a"}
    made.deliver = True
    want(made, "b", "cordoned")
    assert made.notes[-1].event != "committed" and used(made) == {"a"}
    made.pass_time(12.0)
    assert used(made) == {"a"}


def test_a_drained_worker_serves_until_others_do_and_is_emptied() -> None:
    made = fleet("a", "b")
    assert used(made) == {"a", "b"}
    made.deliver = False
    want(made, "a", "drained")
    assert used(made) == {"a", "b"} and made.model().status == "serving"  # b has not loaded it yet
    assert {view.node: view.state for view in made.digests[-1].nodes} == {"a": "draining", "b": "alive"}
    made.deliver = True
    made.say("agent:b", made.agents["b"].hello())  # what it was to prepare is told it again
    assert used(made) == {"b"} and made.agents["a"].loaded == ()


def test_what_nobody_else_can_serve_stays_on_a_drained_worker() -> None:
    made = fleet("a")
    want(made, "a", "drained")
    made.pass_time(30.0)
    assert made.model().status == "serving" and used(made) == {"a"} and made.agents["a"].loaded
    made.add(manifest("other", blocks=2, weights=MB))
    assert made.model("other").status == "unavailable" and "a is left out for now: it is drained" in (
        made.model("other").reason
    )
    made.join("b")
    assert used(made) == used(made, "other") == {"b"}
    assert made.agents["a"].loaded == ()


def test_a_drained_worker_is_no_standby_and_a_cordoned_one_stays_one() -> None:
    made = fleet("a", "b", "c", blocks=1, standbys=1)

    def standby() -> str:
        ((one,),) = (stage.standbys for stage in made.model().stages)
        return str(one.node)

    first = standby()
    want(made, first, "cordoned")
    assert standby() == first
    want(made, first, "drained")
    made.pass_time(12.0)
    assert standby() != first and made.agents[first].loaded == ()
    want(made, first, "cordoned")
    want(made, standby(), "drained")
    made.pass_time(12.0)
    assert made.model().stages[0].standbys == () and made.agents[first].loaded == ()


def test_they_hold_for_the_next_process_of_that_name_and_after_a_restart(tmp_path: Path) -> None:
    made = fleet("a", "b")
    want(made, "a", "drained")
    made.lose("a")
    made.join("a", incarnation="i2")
    assert used(made) == {"b"} and made.agents["a"].loaded == ()
    with Store(tmp_path) as store:
        store.put_node_wishes("a", NodeWishes(duty="drained", labels={"zone": "attic"}))
        found = recall(store).node_wishes
    again = Fleet(memory=Memory(node_wishes=found))
    again.add(manifest(weights=MB))
    again.join("b")
    again.join("a")
    assert used(again) == {"b"} and again.cluster.wanted.node("a").labels == {"zone": "attic"}


def test_labels_name_workers_in_what_is_wanted_of_models() -> None:
    made = fleet("a", "b", "c")
    want(made, "a", zone="attic")
    want(made, "b", zone="attic", power="solar")
    made.handle(events.WishesSet("net", Wishes(forbidden=("zone=attic",))))
    assert used(made) == {"c"}
    want(made, "c", zone="attic")
    want(made, "b", zone="cellar")
    assert used(made) == {"b"}
    made.handle(events.WishesSet("net", Wishes(forbidden=("zone!=attic",))))
    assert used(made) == {"a", "c"}
    made.handle(events.WishesSet("net", Wishes(required=("zone=cellar", "zone=nowhere"))))
    assert "b" in used(made)
    made.handle(events.WishesSet("net", Wishes(required=("zone=cellar",), forbidden=("b",))))
    assert "b" not in used(made) and made.model().status == "serving"


def test_a_required_worker_that_is_drained_is_done_without() -> None:
    made = fleet("a", "b")
    made.handle(events.WishesSet("net", Wishes(required=("a",), source="a")))
    want(made, "a", "drained")
    assert used(made) == {"b"} and made.model().status == "serving"


def test_the_administrator_is_answered_once_it_is_on_disk(tmp_path: Path) -> None:
    made = fleet("a", "b")
    with Store(tmp_path) as store:
        admin = AdminRequests(made.cluster, store)

        def ask(name: str, **said: object) -> str:
            reply, event = admin.answer(SetNode(id=5, name=name, **said), made.now)  # type: ignore[arg-type]
            if event is not None:
                assert reply == Done(id=5)
                made.handle(event)
                return ""
            assert isinstance(reply, ErrorReply)
            return f"{reply.code}: {reply.message}"

        assert ask("c", duty="drained") == "cluster: no worker is called 'c'; there are: a, b"
        assert ask("a", labels={"b d": "x"}).startswith("config: label b d=x: want letters")
        assert "there is no label 'zone' to take off" in ask("a", unset=("zone",))
        assert store.node_wishes() == {}
        assert ask("a", duty="cordoned") == ask("a", labels={"zone": "attic", "n": ""}) == ""
        listed, _ = admin.answer(ListNodes(id=9), made.now)
        assert isinstance(listed, NodeList)
        assert [(row.duty, row.labels) for row in listed.nodes] == [
            ("cordoned", {"n": "", "zone": "attic"}),
            ("open", {}),
        ]
        assert ask("a", unset=("n",)) == ask("b", duty="drained") == ask("b", duty="open") == ""
        assert store.node_wishes() == {"a": NodeWishes(duty="cordoned", labels={"zone": "attic"})}
        reply, _ = admin.answer(SetWishes(id=6, model="net", wishes=Wishes(forbidden=("z one=x",))), made.now)
        assert isinstance(reply, ErrorReply) and "names no label" in reply.message
        made.lose("a")
        reply, event = admin.answer(RemoveNode(id=7, name="a"), made.now)
        assert event is not None
        made.handle(event)
        assert store.node_wishes() == {} and ask("a", duty="open").endswith("there are: b")


@pytest.mark.parametrize("duty", ["cordoned", "drained"])
def test_what_is_wanted_of_a_worker_reaches_the_other_coordinator(tmp_path: Path, duty: str) -> None:
    with Store(tmp_path / "a") as a, Store(tmp_path / "b") as b:
        a.put_node_wishes("n", NodeWishes(duty=duty, labels={"zone": "attic"}))  # type: ignore[arg-type]
        b.journal.merge(a.journal.since(0)[0])
        assert b.node_wishes() == a.node_wishes() != {} and b.wishes() == {}
        a.put_node_wishes("n", NodeWishes())
        b.journal.merge(a.journal.since(0)[0])
        assert b.node_wishes() == a.node_wishes() == {}
