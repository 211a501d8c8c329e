"""Joining, leaving, draining and coming back after a restart of the coordinator."""

from __future__ import annotations

from typing import Any

import pytest
from fleet import MB, FakeAgent, Fleet, manifest, sha

from stageline.errors import LocalProtocolError
from stageline.messages import (
    ExecutorDown,
    Farewell,
    Hello,
    Leaving,
    Pong,
    Prepare,
    Prepared,
    Refused,
    Rejoin,
    Retire,
    Welcome,
)
from stageline.plan import Epoch, StageKey
from stageline_coordinator import events
from stageline_coordinator.cluster import Memory
from stageline_coordinator.detector import PeerState
from stageline_coordinator.figures import Figure, FigureKey
from stageline_coordinator.peers import FORGET_S, LEGAL, Peer
from stageline_coordinator.rows import model_rows


def serving(nodes: int = 3) -> Fleet:
    made = Fleet()
    made.add(manifest(blocks=6))
    for i in range(nodes):
        made.join(f"n{i}", memory=40 * MB)
    assert made.model().status == "serving"
    return made


def gateway(made: Fleet, name: str = "g") -> str:
    made.say(f"gateway:{name}", Hello(role="gateway", name=name, incarnation="i"))
    return f"gateway:{name}"


def pong(made: Fleet, peer: str, epoch: Epoch, oldest: Epoch | None = None) -> None:
    made.say(peer, Pong(sequence=1, sent_s=0, incarnation="i", epoch=epoch, oldest_in_flight=oldest))


def memory_of(made: Fleet) -> Memory:
    """What the store would hold."""
    figures: dict[FigureKey, Figure] = {}
    nodes: dict[str, Hello] = {}
    for one in made.persisted:
        if isinstance(one, events.PersistFigure):
            figures[FigureKey(one.graph, one.fingerprint, one.batch)] = one.figure
        elif isinstance(one, events.PersistNode):
            nodes[one.hello.name] = one.hello
    return Memory(tuple(made.cluster.models.values()), figures, made.plan, tuple(nodes.values()))


def restarted(made: Fleet) -> Fleet:
    again = Fleet(term=2, memory=memory_of(made), now=made.now + 1)
    again.handle(events.Tick())
    return again


# --- joining ------------------------------------------------------------------------------------------------


def test_who_joins_is_welcomed_watched_and_seen() -> None:
    made = Fleet()
    made.join("n0")
    (welcome,) = made.replies("agent:n0", Welcome)
    assert (welcome.term, welcome.plan, welcome.blobs, welcome.cluster) == (1, "tcp://p", "tcp://b", "c")
    assert made.watched == {"agent:n0"}
    assert [(v.node, v.state) for v in made.digests[-1].nodes] == [("n0", "alive")]


def test_an_administrator_is_welcomed_and_forgotten() -> None:
    made = Fleet()
    made.say("admin:cli", Hello(role="admin", name="cli", incarnation="i"))
    assert made.replies("admin:cli", Welcome)
    assert not made.watched and not made.cluster.members.gateways


@pytest.mark.parametrize(
    ("identity", "hello", "code"),
    [
        ("agent:x", FakeAgent("y").hello(), "protocol"),
        ("agent:x", Hello(role="agent", name="x", incarnation="i"), "protocol"),
        ("gateway:x", Hello(role="gateway", name="x", incarnation="i", protocol_min=99, protocol_max=99), "protocol"),
    ],
)
def test_who_does_not_fit_is_refused(identity: str, hello: Hello, code: str) -> None:
    made = Fleet()
    made.say(identity, hello)
    assert [r.code for r in made.replies(identity, Refused)] == [code]
    assert not made.watched


def test_a_newer_peer_that_still_speaks_our_protocol_is_welcome() -> None:
    made = Fleet()
    made.say("gateway:g", Hello(role="gateway", name="g", incarnation="i", protocol_min=1, protocol_max=9))
    assert made.replies("gateway:g", Welcome)


def test_a_namesake_is_refused_while_the_first_lives_and_takes_over_once_it_is_silent() -> None:
    made = serving()
    second = FakeAgent("n1", incarnation="i2", memory=40 * MB)
    made.say("agent:n1", second.hello())
    assert made.replies("agent:n1", Refused)[0].code == "duplicate_name"
    made.handle(events.PeerChanged("agent:n1", PeerState.SUSPECT))
    made.agents["n1"] = second
    made.say("agent:n1", second.hello())
    assert made.model().status == "serving"
    assert second.executor in {s.replicas[0].executor for s in made.model().stages}


def test_whoever_is_not_known_is_asked_to_say_hello() -> None:
    made = serving()
    made.say("agent:stranger", Leaving(name="stranger"))
    assert made.replies("agent:stranger", Rejoin)
    made.say("agent:n0", Pong(sequence=1, sent_s=0, incarnation="another"))
    assert made.replies("agent:n0", Rejoin)


def test_the_same_incarnation_may_say_hello_again_with_fresh_news() -> None:
    made = serving()
    before = made.plan.epoch
    made.say("agent:n1", made.agents["n1"].hello())
    assert made.plan.epoch == before
    made.agents["n1"].loaded = ()
    made.say("agent:n1", made.agents["n1"].hello())
    assert made.model().status == "serving" and made.agents["n1"].loaded


def test_who_returns_after_a_broken_connection_is_asked_for_its_state() -> None:
    made = serving()
    made.lose("n1", disconnected=True)
    made.handle(events.PeerChanged("agent:n1", PeerState.ALIVE))
    assert made.replies("agent:n1", Rejoin)


def test_illegal_steps_of_a_peer_raise() -> None:
    states = ("alive", "suspect", "gone")
    for old in states:
        for new in states:
            peer = Peer(Hello(role="gateway", name="g", incarnation="i"), liveness=old)  # type: ignore[arg-type]
            if (old, new) in LEGAL:
                peer.become(new, 1.0)  # type: ignore[arg-type]
            else:
                with pytest.raises(LocalProtocolError):
                    peer.become(new, 1.0)  # type: ignore[arg-type]


def test_who_is_gone_for_long_is_forgotten() -> None:
    made = Fleet()
    made.join("n0")
    made.lose("n0")
    assert [v.state for v in made.digests[-1].nodes] == ["gone"] and not made.watched
    made.pass_time(FORGET_S + 2, step=1.0)
    assert made.digests[-1].nodes == () and events.ForgetNode("n0") in made.persisted


# --- draining -----------------------------------------------------------------------------------------------


def drained(made: Fleet) -> bool:
    """Whether the survivors have nothing loaded but what the plan needs."""
    needed = {made.model().key(stage) for stage in made.model().stages}
    return all(set(agent.loaded) <= needed for agent in made.agents.values() if agent.name != "n2")


def moved_to_two() -> tuple[Fleet, Epoch, Epoch]:
    """A plan on n0 to n2 that was replaced because n2 died; its stages are loaded still."""
    made = serving()
    gateway(made)
    old = made.plan.epoch
    pong(made, "gateway:g", old, old)
    made.lose("n2", disconnected=True)
    assert made.plan.epoch > old and not drained(made)
    return made, old, made.plan.epoch


def test_old_stages_stay_until_the_gateway_has_left_the_old_plan() -> None:
    made, old, new = moved_to_two()
    pong(made, "gateway:g", old, old)
    pong(made, "gateway:g", new, old)
    made.pass_time(5)
    assert not drained(made)
    pong(made, "gateway:g", new, new)
    assert drained(made) and made.model().status == "serving"


def test_a_gateway_that_does_not_leave_is_waited_for_only_so_long() -> None:
    made, old, new = moved_to_two()
    made.pass_time(9)
    pong(made, "gateway:g", new, old)
    assert not drained(made)
    made.pass_time(2)
    assert drained(made)


def test_without_gateways_nothing_has_to_drain() -> None:
    made = serving()
    made.lose("n2", disconnected=True)
    assert drained(made)


def test_a_retirement_is_never_ahead_of_the_preparation_that_nodes_work_on() -> None:
    made, _, _ = moved_to_two()
    made.deliver = False
    made.join("n3", memory=40 * MB)
    (asked,) = made.replies("agent:n3", Prepare)
    made.add(manifest("other", blocks=2))  # a status-only plan takes a number meanwhile
    made.pass_time(11)
    retired = [r for name in ("n0", "n1", "n3") for r in made.replies(f"agent:{name}", Retire) if r.term == 1]
    assert retired and all(set(asked.stages) <= set(r.keep) for r in made.replies("agent:n3", Retire))
    late = [r for r in made.replies("agent:n0", Retire) if r.version >= asked.version]
    newest = max(p.version for n in ("n0", "n1", "n3") for p in made.replies(f"agent:{n}", Prepare))
    assert all(r.version <= newest for r in late)


def test_what_a_late_answer_says_is_loaded_gets_retired() -> None:
    made = serving()
    stray = StageKey(manifest=made.model().manifest, start=5, end=6)
    agent = made.agents["n0"]
    agent.loaded = (*agent.loaded, stray)
    made.say("agent:n0", Prepared(term=1, version=999, stages=(stray,), executors=(agent.executor,)))
    assert stray not in agent.loaded
    made.say("agent:n0", Prepared(term=1, version=999, stages=(stray,), executors=("no such", "more")))


def test_a_leaving_node_drains_is_planned_around_and_may_go() -> None:
    made = serving()
    gateway(made)
    old = made.plan.epoch
    pong(made, "gateway:g", old, old)
    made.say("agent:n1", Leaving(name="n1"))
    assert {v.node: v.state for v in made.digests[-1].nodes}["n1"] == "draining"
    assert "n1" not in made.hosts() and not made.replies("agent:n1", Farewell)
    pong(made, "gateway:g", made.plan.epoch, made.plan.epoch)
    assert len(made.replies("agent:n1", Farewell)) == 1
    made.handle(events.PeerChanged("agent:n1", PeerState.SUSPECT, disconnected=True))
    assert {v.node: v.state for v in made.digests[-1].nodes}["n1"] == "gone"


def test_the_only_host_may_leave_too_after_the_drain() -> None:
    made = Fleet()
    made.add(manifest())
    made.join("n0")
    gateway(made)
    pong(made, "gateway:g", made.plan.epoch, made.plan.epoch)
    made.say("agent:n0", Leaving(name="n0"))
    assert made.model().status == "unavailable" and not made.replies("agent:n0", Farewell)
    made.pass_time(11)
    assert made.replies("agent:n0", Farewell)


def test_a_spare_node_and_a_gateway_may_leave_at_once() -> None:
    made = Fleet()
    made.join("n0")
    made.say("agent:n0", Leaving(name="n0"))
    assert made.replies("agent:n0", Farewell)
    made.say(gateway(made), Leaving(name="g"))
    assert made.replies("gateway:g", Farewell)


def test_a_removed_node_is_forgotten_everywhere_and_may_come_back() -> None:
    made = serving()
    made.lose("n1")
    made.handle(events.NodeRemoved("n1"))
    assert [view.node for view in made.digests[-1].nodes] == ["n0", "n2"]
    assert made.persisted[-1] == events.ForgetNode("n1")
    made.join("n1", memory=40 * MB)
    assert {view.node: view.state for view in made.digests[-1].nodes}["n1"] == "alive"


# --- restart ------------------------------------------------------------------------------------------------


def return_all(made: Fleet, again: Fleet, **changes: Any) -> None:
    for agent in made.agents.values():
        again.agents[agent.name] = agent
        again.say(agent.identity, agent.hello())


def test_the_same_executors_are_taken_on_under_the_new_term_without_touching_them() -> None:
    made = serving()
    again = restarted(made)
    assert again.plan == made.plan and not again.plans and not again.digests
    return_all(made, again)
    assert again.plan.term == 2 and again.plan.models == made.plan.models
    again.pass_time(10)
    sent = [type(m) for _, m in again.sent if isinstance(m, Prepare)]
    assert not sent and not again.solves[1:] and len(again.plans) == 1
    assert all(agent.loaded for agent in again.agents.values())


def test_it_waits_for_the_known_workers_and_then_plans_without_those_that_are_missing() -> None:
    made = serving()
    del made.agents["n1"]
    again = restarted(made)
    return_all(made, again)
    again.pass_time(2)
    assert again.cluster.resuming and not again.plans
    again.pass_time(2)
    assert again.model().status == "serving" and "n1" not in again.hosts()
    assert {v.node: v.state for v in again.digests[-1].nodes}["n1"] == "gone"


def test_as_long_as_nobody_comes_nobody_is_taken_for_dead() -> None:
    """All of them may be with another coordinator that leads, and that this one does not hear."""
    made = serving()
    gateway(made)
    again = restarted(made)
    again.pass_time(60)
    assert again.cluster.resuming and not again.plans and not again.digests and not again.solves
    gateway(again)
    return_all(made, again)
    assert again.plan.models == made.plan.models and len(again.plans) == 1
    assert {view.state for view in again.plan.nodes} == {"alive"}
    assert not [message for _, message in again.sent if isinstance(message, Prepare)]


def test_people_are_told_that_nothing_is_served_while_nobody_comes() -> None:
    made = serving()
    again = restarted(made)
    (row,) = model_rows(again.cluster, again.now)
    assert row.status == "serving", "they may come yet"
    again.pass_time(4)
    (row,) = model_rows(again.cluster, again.now)
    assert row.status == "unavailable" and "no workers are connected" in row.reason
    assert not again.cluster.shown(again.now).model("net").stages and again.model().stages
    gateway(again)
    assert again.cluster.shown(again.now) == again.plan == made.plan, "now they may come again"


@pytest.mark.parametrize("first", ["g", "n0"])
def test_who_does_not_come_is_missed_so_long_after_the_first_that_did(first: str) -> None:
    made = serving()
    again = restarted(made)
    again.pass_time(10)
    came = again.now
    if first == "g":
        gateway(again)
    else:
        again.join("n0", memory=40 * MB)
    again.pass_time(1)
    for name in ("n0", "n2"):
        again.join(name, memory=40 * MB)
    while again.cluster.resuming:
        assert not again.plans
        again.pass_time(0.5)
    assert again.now - came == pytest.approx(3.0)
    assert again.model().status == "serving" and "n1" not in again.hosts()


def test_a_worker_that_restarted_meanwhile_is_loaded_anew_at_once() -> None:
    made = serving()
    made.agents["n1"] = FakeAgent("n1", incarnation="i2", memory=40 * MB)
    again = restarted(made)
    return_all(made, again)
    assert again.model().status == "serving" and not again.cluster.resuming
    assert made.agents["n1"].executor in {s.replicas[0].executor for s in again.model().stages}


def test_epochs_of_the_new_term_are_above_all_of_the_old() -> None:
    made = serving()
    again = restarted(made)
    return_all(made, again)
    again.say("agent:n0", ExecutorDown(executor=made.agents["n0"].executor, exit_code=1, reason="x"))
    assert all(plan.epoch > made.plan.epoch for plan in again.plans)
    assert again.plan.models[0].manifest == sha(manifest(blocks=6).digest, "net")


def test_without_a_plan_to_resume_it_starts_at_once() -> None:
    made = Fleet(memory=Memory(models=(("m", manifest()),)))
    made.join("n0")
    assert made.model().status == "serving"


def test_a_peer_that_returned_over_a_new_connection_is_asked_to_say_hello_again() -> None:
    made = serving()
    made.handle(events.PeerChanged("agent:n1", PeerState.ALIVE, returned=True))
    assert len(made.replies("agent:n1", Rejoin)) == 1
    assert made.cluster.members.nodes["n1"].state == "alive"
