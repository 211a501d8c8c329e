"""Standbys of a cluster: loaded after the commit, named by the plan once ready, gone when a plan needs their memory."""

from __future__ import annotations

import pytest
from fleet import MB, FakeAgent, Fleet, manifest

from stageline.messages import ExecutorDown, Leaving, Pong, Prepare, PrepareFailed, Retire
from stageline.plan import Plan, StageKey
from stageline_coordinator import events
from stageline_coordinator.cluster import Memory
from stageline_coordinator.rows import node_rows

ROOMY = 400 * MB


def fleet(nodes: int = 3, memory: int = ROOMY, standbys: int = 1) -> Fleet:
    made = Fleet(standbys=standbys)
    for i in range(nodes):
        made.join(f"n{i}", memory=memory)
    made.add(manifest(blocks=6))
    return made


def standbys(plan: Plan) -> dict[tuple[int, int], list[str]]:
    model = plan.model("net")
    assert model is not None
    return {(s.start, s.end): [replica.node for replica in s.standbys] for s in model.stages}


def covers_every_death(made: Fleet) -> bool:
    stages = made.model().stages
    return bool(stages) and all({r.node for r in s.standbys} - {s.replicas[0].node} for s in stages)


def test_every_stage_gets_one_after_the_commit() -> None:
    made = fleet()
    assert len(made.model().stages) == 3
    assert covers_every_death(made)
    assert all(not stage.exposed for stage in made.model().stages)
    for agent in made.agents.values():
        assert len(agent.loaded) == 2
    first, *later = [plan.models[0].stages for plan in made.plans if plan.models and plan.models[0].stages]
    assert not any(stage.standbys for stage in first), "the commit waited for none"
    assert "it is being loaded on n1" in {stage.exposed for stages in later for stage in stages}


def test_none_when_they_are_turned_off() -> None:
    made = fleet(standbys=0)
    assert set(map(tuple, standbys(made.plan).values())) == {()}
    assert all(len(agent.loaded) == 1 for agent in made.agents.values())


def test_a_cluster_without_memory_says_so() -> None:
    made = fleet(memory=30 * MB)
    stages = made.model().stages
    assert stages and all("MB left" in stage.exposed for stage in stages)
    note = [note for note in made.notes if note.event == "standbys"][-1]
    assert len(note.fields["exposed"]) == len(stages)


def test_two_deaths_at_once() -> None:
    made = fleet(standbys=2)
    assert all(len(nodes) == 2 for nodes in standbys(made.plan).values())


def test_the_listing_tells_them_apart() -> None:
    made = fleet()
    for row in node_rows(made.cluster):
        (executor,) = row.executors
        assert len(row.standbys) == 1 and set(row.standbys) < set(executor.loaded)


def test_they_stay_loaded_over_retires() -> None:
    made = fleet()
    made.pass_time(5.0)
    assert covers_every_death(made)
    assert all(len(agent.loaded) == 2 for agent in made.agents.values())


def test_while_a_stage_has_lost_its_replica_nothing_is_changed_but_by_a_new_plan() -> None:
    made = fleet()
    victim, before = made.hosts()[1], made.plan
    made.planner_works = False
    made.lose(victim, disconnected=True)
    made.pass_time(3.0)
    assert made.plan.models == before.models, "its standby is still named: gateways are on it"
    problem = made.solves[-1].document
    (stage,) = [s for s in problem["current"]["net"] if s["blocks"] == [*_span(before, victim)]]
    assert stage["nodes"] == standbys(before)[_span(before, victim)], "the planner is told what serves now"
    made.planner_works = True
    made.answer_solve()
    assert victim not in made.hosts() and made.model().status == "serving"
    assert covers_every_death(made)


def _span(plan: Plan, node: str) -> tuple[int, int]:
    model = plan.model("net")
    assert model is not None
    return next((s.start, s.end) for s in model.stages if s.replicas[0].node == node)


def test_a_model_without_a_plan_is_served_by_standbys_as_long_as_they_last() -> None:
    made = fleet()
    victim = made.hosts()[2]
    made.planner_works = False
    made.lose(victim, disconnected=True)
    last = made.solves[-1]
    nothing = {"stages": {}, "models": {"net": {"reason": "no plan fits"}}}
    made.handle(events.Solved(last.problem, nothing))
    again = made.solves[-1]
    made.handle(events.Solved(again.problem, nothing))
    assert made.model().status == "serving"
    (standby,) = standbys(made.plan)[_span(made.plan, victim)]
    made.lose(standby, disconnected=True)
    made.handle(events.Solved(made.solves[-1].problem, nothing))
    made.handle(events.Solved(made.solves[-1].problem, nothing))
    assert made.model().status == "unavailable"


def test_a_dead_standby_is_replaced() -> None:
    made = fleet(nodes=2)
    made.join("spare", memory=ROOMY, speed=0.05, fingerprint="slow")
    made.pass_time(2.0)
    assert len(made.hosts()) == 2
    victim = "n1" if "n1" not in made.hosts() else "spare"
    made.lose(victim, disconnected=True)
    made.pass_time(2.0)
    assert covers_every_death(made)
    assert all(victim not in nodes for nodes in standbys(made.plan).values())


def test_one_that_leaves_holds_none_and_may_go() -> None:
    made = fleet(nodes=2)
    made.join("spare", memory=ROOMY, speed=0.05, fingerprint="slow")
    made.pass_time(2.0)
    leaver = next(name for name in made.agents if name not in made.hosts())
    made.say(f"agent:{leaver}", Leaving(name=leaver))
    made.pass_time(1.0)
    assert all(leaver not in nodes for nodes in standbys(made.plan).values())
    assert made.cluster.members.nodes[leaver].farewell


def test_an_executor_that_starts_anew_loads_its_standby_again() -> None:
    made = fleet(nodes=2)
    made.join("spare", memory=ROOMY, speed=0.05, fingerprint="slow")
    made.pass_time(2.0)
    name = next(name for name in made.agents if name not in made.hosts())
    agent = made.agents[name]
    old = agent.loaded
    made.say(agent.identity, ExecutorDown(executor=agent.executor, exit_code=-9, reason="x"))
    agent.loaded = ()
    made.say(agent.identity, agent.hello())
    made.pass_time(1.0)
    assert covers_every_death(made)
    assert set(agent.loaded) == set(old)


class Stubborn(FakeAgent):
    """Fails to load whatever is not in `may`."""

    may: frozenset[StageKey] = frozenset()

    def answer(self, message, models):  # type: ignore[no-untyped-def]
        if isinstance(message, Prepare) and not set(message.stages) <= self.may | set(self.loaded):
            self.got.append(message)
            stage = next(s for s in message.stages if s not in self.may)
            return PrepareFailed(
                term=message.term, version=message.version, stage=stage, code="failed", message="no room"
            )
        return super().answer(message, models)


def test_one_that_fails_to_load_it_is_left_in_the_plan_and_asked_again_later() -> None:
    made = fleet(nodes=2, standbys=0)
    for agent in made.agents.values():
        agent.__class__ = Stubborn
    made.cluster._course._guard._deaths = 1
    made.pass_time(1.0)
    asked = {name: agent.count(Prepare) for name, agent in made.agents.items()}
    assert all("failed to load it" in stage.exposed for stage in made.model().stages)
    assert made.model().status == "serving" and len(made.hosts()) == 2
    made.pass_time(5.0)
    assert {name: agent.count(Prepare) for name, agent in made.agents.items()} == asked
    for agent in made.agents.values():
        agent.__class__ = FakeAgent
    made.pass_time(10.0)
    assert covers_every_death(made)


@pytest.mark.parametrize("memory", [62 * MB, 80 * MB, 130 * MB])
def test_a_plan_gets_the_memory_that_it_needs(memory: int) -> None:
    """A second model comes: what stood by makes way before it is loaded, and is told to."""
    made = fleet(nodes=2, memory=memory)
    made.pass_time(2.0)
    had = {name: set(agent.loaded) for name, agent in made.agents.items()}
    for agent in made.agents.values():
        agent.got.clear()
    made.add(manifest("other", blocks=6, weights=8 * MB))
    made.pass_time(2.0)
    assert made.model("other").status == made.model("net").status == "serving"
    for name, agent in made.agents.items():
        prepared = [i for i, m in enumerate(agent.got) if isinstance(m, Prepare)]
        retired = [i for i, m in enumerate(agent.got) if isinstance(m, Retire)]
        if any(stage.manifest != made.model("other").manifest for stage in had[name] - set(agent.loaded)):
            assert retired and retired[0] < prepared[0]
    dropped = [note for note in made.notes if note.event == "standbys dropped"]
    assert bool(dropped) == (memory < 100 * MB)


def test_a_restarted_coordinator_finds_them_as_they_were() -> None:
    made = fleet()
    before = made.plan
    memory = Memory(
        models=tuple((sha, m) for sha, m in made.cluster.models.values()),
        figures=made.cluster.measuring.book.figures,
        plan=before,
        nodes=tuple(agent.hello() for agent in made.agents.values()),
    )
    again = Fleet(term=2, memory=memory, standbys=1)
    for agent in made.agents.values():
        agent.got.clear()
        again.agents[agent.name] = agent
        again.say(agent.identity, agent.hello())
    again.pass_time(2.0)
    assert again.plan.models == before.models
    assert all(agent.count(Prepare) == 0 for agent in made.agents.values())


def test_a_gateway_that_is_slow_to_leave_a_plan_keeps_its_standbys_loaded() -> None:
    made = fleet(nodes=2)
    made.say("gateway:g", made_gateway())
    epoch = made.plan.epoch
    pong(made, epoch)
    made.join("spare", memory=ROOMY, speed=1.0)
    made.pass_time(2.0)
    old = {name: set(agent.loaded) for name, agent in made.agents.items() if name != "spare"}
    assert all(len(stages) >= 2 for stages in old.values())
    pong(made, made.plan.epoch, None)
    made.pass_time(2.0)
    assert covers_every_death(made)
    for name, agent in made.agents.items():
        stages = {made.model().key(s) for s in made.model().stages}
        assert set(agent.loaded) <= stages, f"{name} keeps what nobody needs"


def made_gateway():  # type: ignore[no-untyped-def]
    from stageline.messages import Hello

    return Hello(role="gateway", name="g", incarnation="i")


def pong(made: Fleet, epoch, oldest=None) -> None:  # type: ignore[no-untyped-def]
    made.say("gateway:g", Pong(sequence=1, sent_s=0.0, incarnation="i", epoch=epoch, oldest_in_flight=oldest))


def test_a_retire_is_never_ahead_of_what_a_node_is_loading() -> None:
    """Agents drop what they fetched for a version that is not their latest."""
    made = Fleet(standbys=1)
    slow = made.join("n0", memory=ROOMY)
    made.join("n1", memory=ROOMY)
    made.add(manifest(blocks=6))
    made.sent.clear()
    slow.mute = True
    own = {made.model().key(s) for s in made.model().stages if s.replicas[0].node == "n0"}
    slow.loaded = tuple(own)
    made.say(slow.identity, slow.hello())
    made.add(manifest("big", blocks=2, weights=10_000 * MB))
    made.pass_time(1.0)
    slow_prepares = [m.version for to, m in made.sent if to == slow.identity and isinstance(m, Prepare)]
    retires = [m.version for to, m in made.sent if to == slow.identity and isinstance(m, Retire)]
    assert slow_prepares and all(version <= slow_prepares[-1] for version in retires)
