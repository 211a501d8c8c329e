"""Links and live times in the whole cluster: they reach the planner's problem, and noise makes no new plans."""

from __future__ import annotations

from typing import Any

from fleet import MB, FakeAgent, Fleet, link, manifest, probe_of, sha

from stageline.messages import Hello, LinkTime, Pong, Probed, ProbeRequest, ProfileRequest, StageTime
from stageline_coordinator import events
from stageline_coordinator.cluster import Memory
from stageline_coordinator.drift import PATIENCE_S
from stageline_coordinator.links import PATIENCE_S as LINKS_PATIENCE_S
from stageline_coordinator.network import BROKEN
from stageline_coordinator.rows import node_rows
from stageline_coordinator.tournament import REFRESH_S


def fleet(nodes: int = 3, megabytes_per_s: float = 100.0, **settings: Any) -> Fleet:
    """Nodes whose links are all alike, and a gateway; no model yet."""
    made = Fleet()
    names = [f"n{i}" for i in range(nodes)]
    everybody = [*(f"agent:{name}" for name in names), "gateway:g"]
    made.say("gateway:g", Hello(role="gateway", name="g", incarnation="i", probe=probe_of("g")))
    for name in names:
        made.join(name, links=dict.fromkeys(everybody, link(megabytes_per_s)), memory=40 * MB, **settings)
    made.pass_time(1.0)
    return made


def document(made: Fleet) -> dict[str, Any]:
    return dict(made.solves[-1].document)


def asked(made: Fleet) -> list[tuple[str, str]]:
    return [(peer, m.peer) for peer, m in made.sent if isinstance(m, ProbeRequest)]


def test_every_link_is_measured_when_nodes_come_and_the_planner_gets_them() -> None:
    made = fleet()
    assert sorted(asked(made)) == [
        ("agent:n0", "agent:n1"),
        ("agent:n0", "agent:n2"),
        ("agent:n0", "gateway:g"),
        ("agent:n1", "agent:n2"),
        ("agent:n1", "gateway:g"),
        ("agent:n2", "gateway:g"),
    ]
    made.add(manifest(blocks=6))
    problem = document(made)
    assert problem["links"]["bandwidth_bytes_per_s"][0] == [None, 100 * MB, 100 * MB]
    assert problem["links"]["latency_s"][2] == [0.001, 0.001, 0.0]
    assert problem["ingress"] == problem["egress"]
    assert problem["ingress"]["bandwidth_bytes_per_s"] == [100 * MB] * 3


def test_links_and_blocks_of_one_host_are_not_measured_at_the_same_time() -> None:
    made = Fleet()
    made.deliver = False
    made.join("a", links={}, host="h")
    made.add(manifest(blocks=6))
    assert made.replies("agent:a", ProfileRequest)
    made.join("b", links={}, host="h")
    assert not asked(made)
    question = made.replies("agent:a", ProfileRequest)[-1]
    answer = made.agents["a"].answer(question, {})
    assert answer is not None
    made.say("agent:a", answer)
    made.pass_time(0.5)
    assert asked(made) == [("agent:a", "agent:b")]
    more = len(made.replies("agent:a", ProfileRequest))
    made.say("agent:a", Probed(peer="agent:b", link=link(10)))
    assert len(made.replies("agent:a", ProfileRequest)) == more + 1


def test_a_worker_that_cannot_measure_links_is_planned_with_as_before() -> None:
    made = Fleet()
    made.add(manifest(blocks=4))
    made.join("old")
    assert made.model().status == "serving" and not asked(made)
    assert "links" not in document(made)


def test_first_figures_make_one_new_problem_not_one_each() -> None:
    made = fleet()
    made.add(manifest(blocks=6))
    solves = len(made.solves)
    newcomer = [f"agent:n{i}" for i in range(3)]
    made.join("n9", links=dict.fromkeys([*newcomer, "gateway:g"], link(100)), memory=40 * MB)
    for name in ("n0", "n1", "n2"):
        links = made.agents[name].links
        assert links is not None
        links["agent:n9"] = link(100)
    made.pass_time(20.0)
    assert len(made.solves) <= solves + 2  # with the node, then with its links


def test_a_link_that_never_answers_does_not_keep_the_others_waiting() -> None:
    made = fleet()
    made.join("n9", links=dict.fromkeys(["agent:n0", "gateway:g"], link(50)), memory=40 * MB)
    made.pass_time(LINKS_PATIENCE_S + 1)
    book = made.cluster.measuring.links.book
    assert ("agent:n0", "agent:n1") in book.planned and ("agent:n9", "gateway:g") in book.planned


def test_a_way_that_is_barred_is_planned_around() -> None:
    made = fleet(nodes=2)
    links = made.agents["n0"].links
    assert links is not None
    del links["agent:n1"]
    made.pass_time(REFRESH_S + 60)
    assert made.cluster.measuring.links.book.planned["agent:n0", "agent:n1"] == BROKEN
    assert [note.event for note in made.notes].count("link broken") == 2
    made.add(manifest(blocks=6))
    problem = document(made)
    assert problem["links"]["bandwidth_bytes_per_s"][0][1] == 0.0


def test_noise_never_makes_a_new_problem_and_a_confirmed_drift_one() -> None:
    made = fleet()
    made.add(manifest(blocks=6))
    solves = len(made.solves)

    def measure(megabytes_per_s: float) -> None:
        for agent in made.agents.values():
            assert agent.links is not None
            for peer in agent.links:
                agent.links[peer] = link(megabytes_per_s)
        made.pass_time(REFRESH_S + 30, step=1.0)

    for rate in (120.0, 75.0, 100.0):
        measure(rate)
    assert len(made.solves) == solves
    measure(20.0)
    assert len(made.solves) > solves
    drifted = [note for note in made.notes if note.event == "link drifted"]
    assert len(drifted) == 12 and drifted[0].fields["bytes_per_s"] == 20 * MB


def test_what_was_measured_is_persisted_at_once_and_used_after_a_restart() -> None:
    made = fleet()
    rows = [one for one in made.persisted if isinstance(one, events.PersistLinks)]
    links = {ends: found for row in rows for ends, found in row.links.items()}
    assert len(links) == 12
    again = Fleet(term=2, memory=Memory(links=links))
    again.say("gateway:g", Hello(role="gateway", name="g", incarnation="i", probe=probe_of("g")))
    for agent in made.agents.values():
        again.agents[agent.name] = agent
        agent.mute = True
        again.say(agent.identity, agent.hello())
    nodes = again.cluster.members.usable(again.now)
    network = again.cluster.measuring.links.view(nodes, again.cluster.members)
    assert network.links is not None and network.links.bandwidth_bytes_per_s[0][1] == 100 * MB


def test_figures_that_make_no_sense_count_as_a_failure() -> None:
    made = fleet(nodes=1)
    odd = LinkTime(rtt_s=0.1, rtt_error=0, out_bytes_per_s=float("nan"), out_error=0, in_bytes_per_s=1, in_error=0)
    before = dict(made.cluster.measuring.links.book.latest)
    made.say("agent:n0", Probed(peer="gateway:g", link=odd))
    assert made.cluster.measuring.links.book.latest == before


def serve(made: Fleet, slowdowns: dict[str, float], seconds: float) -> None:
    """A gateway reports once a second what stages take."""
    for _ in range(round(seconds)):
        made.pass_time(1.0, step=1.0)
        times = [
            StageTime(
                node=stage.replicas[0].node,
                stage=made.model().key(stage),
                rows=1,
                batches=10,
                seconds=10 * 0.01 * (stage.end - stage.start) * slowdowns.get(stage.replicas[0].node, 1.0),
            )
            for stage in made.model().stages
        ]
        made.say(
            "gateway:g", Pong(sequence=1, sent_s=0, incarnation="i", epoch=made.plan.epoch, stage_times=tuple(times))
        )


def test_a_node_that_turns_out_slow_gets_fewer_blocks() -> None:
    made = fleet()
    made.add(manifest(blocks=9, weights=1 * MB))

    def share(name: str) -> int:
        return sum(s.end - s.start for s in made.model().stages if s.replicas[0].node == name)

    assert [share(name) for name in made.agents] == [3, 3, 3]
    serve(made, {"n1": 4.0}, 3 * PATIENCE_S)
    assert share("n1") == 1 and share("n0") == share("n2") == 4
    assert [n.fields["node"] for n in made.notes if n.event == "node drifted"] == ["n1"]
    (row,) = [row for row in node_rows(made.cluster) if row.node == "n1"]
    assert row.profile is not None and 3.5 < row.profile.slowdown <= 4.0
    assert row.degraded and [view.node for view in made.digests[-1].nodes if view.degraded] == [row.node]


def test_listings_say_how_well_a_node_is_known() -> None:
    made = fleet()
    made.add(manifest(blocks=6))
    made.pass_time(10.0)
    for row in node_rows(made.cluster):
        profile = row.profile
        assert profile is not None
        assert (profile.blocks, profile.blocks_total, profile.block_error) == (6, 6, 0.02)
        assert profile.batches == (1, 2, 4, 8) and profile.slowdown == 1.0
        assert profile.links_total == len(profile.links) == 3
        assert profile.links[-1].peer == "gateway:g" and profile.links[-1].error == 0.05


def test_a_removed_model_leaves_figures_that_its_return_finds() -> None:
    made = fleet(nodes=1)
    model = made.add(manifest(blocks=2, weights=MB))
    made.handle(events.ModelRemoved(model.name))
    before = len(made.sent)
    made.handle(events.ModelAdded(sha(model.digest, model.name), model))
    assert not any(isinstance(m, ProfileRequest) and m.batches == (1,) for _, m in made.sent[before:])
    assert isinstance(made.agents["n0"], FakeAgent) and made.model().status == "serving"


def test_the_blocks_of_twenty_unlike_nodes_are_known_within_two_minutes() -> None:
    """In virtual time: links take twice their budget, a block 9 runs of 50 ms, each after 20 ms for the caches."""
    made, due = Fleet(), list[tuple[float, FakeAgent, ProbeRequest | ProfileRequest]]()
    made.deliver = made.planner_works = False
    names = [f"n{i}" for i in range(20)]
    made.say("gateway:g", Hello(role="gateway", name="g", incarnation="i", probe=probe_of("g")))
    model = made.add(manifest(blocks=100, weights=MB))
    peers = dict.fromkeys([*(f"agent:{name}" for name in names), "gateway:g"], link(10))
    for name in names:
        made.join(name, fingerprint=name, links=peers)
    seen = 0
    book = made.cluster.measuring.book
    while not all(book.complete(model, name) for name in names):
        for to, message in made.sent[seen:]:
            if isinstance(message, ProbeRequest):
                due.append((made.now + 2 * message.budget_s, made.agents[to.removeprefix("agent:")], message))
            elif isinstance(message, ProfileRequest):
                seconds = 9 * 0.07 * len(message.blocks) * sum(message.batches)
                due.append((made.now + seconds, made.agents[to.removeprefix("agent:")], message))
        seen = len(made.sent)
        made.pass_time(0.5)
        ready = [entry for entry in due if entry[0] <= made.now]
        due = [entry for entry in due if entry[0] > made.now]
        for _, agent, request in ready:
            answer = agent.answer(request, {})
            assert answer is not None
            made.say(agent.identity, answer)
        assert made.now < 120.0, sum(book.complete(model, name) for name in names)
    assert made.solves
