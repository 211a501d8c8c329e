"""The cluster state machine: from a registered model to a committed plan, and on when nodes come and go."""

from __future__ import annotations

import itertools

from fleet import MB, Fleet, manifest, sha

from stageline.messages import ExecutorDown, ExecutorUp, Prepare, PrepareFailed, Profiled, ProfileRequest, Retire
from stageline.plan import Crash
from stageline_coordinator import events
from stageline_coordinator.detector import PeerState


def fleet(nodes: int = 3, **model: int) -> Fleet:
    """Nodes of 40 MB and a model of six times 10 MB that they serve."""
    made = Fleet()
    made.add(manifest(blocks=6, **model))
    for i in range(nodes):
        made.join(f"n{i}", memory=40 * MB)
    assert made.model().status == "serving"
    return made


def test_a_model_goes_from_unavailable_through_profiling_and_loading_to_serving() -> None:
    made = Fleet()
    made.add(manifest())
    assert made.model().status == "unavailable" and "no workers" in made.model().reason
    made.join("n0")
    assert [plan.models[0].status for plan in made.plans] == ["unavailable", "profiling", "loading", "serving"]
    assert made.model().stages[0].compute_s > 0 and made.model().stages[0].weight_bytes == 40 * MB


def test_plans_are_on_disk_before_they_are_published_and_epochs_grow() -> None:
    made = fleet()  # the fleet asserts the order of persisting and publishing
    made.lose("n1")
    epochs = [plan.epoch for plan in made.plans]
    assert epochs == sorted(set(epochs))
    sequences = [digest.sequence for digest in made.digests]
    assert sequences == sorted(set(sequences))


def test_replicas_carry_the_endpoint_of_the_executor_that_loaded_the_stage() -> None:
    made = fleet()
    for stage in made.model().stages:
        (replica,) = stage.replicas
        agent = made.agents[replica.node]
        assert (replica.executor, replica.endpoint) == (agent.executor, agent.info().endpoint)
        assert made.model().key(stage) in agent.loaded


def test_one_node_per_fingerprint_is_asked_for_a_few_blocks_at_a_time() -> None:
    made = Fleet()
    made.deliver = False
    for name in ("a", "b"):
        made.join(name)
    made.join("c", fingerprint="gpu")
    made.add(manifest(blocks=6))
    asked = [peer for peer, message in made.sent if isinstance(message, ProfileRequest)]
    assert sorted(asked) == ["agent:a", "agent:c"]
    assert all(len(r.blocks) < 6 for r in made.replies("agent:a", ProfileRequest))


def test_when_the_node_that_profiles_dies_another_is_asked() -> None:
    made = Fleet()
    made.deliver = False
    made.join("a")
    made.join("b")
    made.add(manifest())
    assert not made.replies("agent:b", ProfileRequest)
    made.lose("a", disconnected=True)
    assert made.replies("agent:b", ProfileRequest)


def test_figures_are_persisted_and_used_by_nodes_of_the_same_fingerprint() -> None:
    made = fleet()
    rows = [p for p in made.persisted if isinstance(p, events.PersistFigure)]
    assert {row.fingerprint for row in rows} == {"cpu"} and len({row.graph for row in rows}) == 6
    assert made.agents["n1"].count(ProfileRequest) == 0


def test_a_block_that_cannot_be_measured_is_given_up_and_the_reason_shown() -> None:
    made = Fleet()
    made.deliver = False
    made.join("a")
    model = made.add(manifest(blocks=2))
    for _ in range(20):
        questions = made.replies("agent:a", ProfileRequest)
        made.sent.clear()
        for question in questions:
            made.say("agent:a", Profiled(manifest=question.manifest, fingerprint="cpu", error="out of memory"))
        assert made.model().status == "unavailable" or "out of memory" in made.model().reason
        made.pass_time(5)
    assert made.model().status == "unavailable"
    assert f"block {model.blocks[0].name}" in made.model().reason


def test_a_node_that_joins_only_takes_over_when_it_makes_things_better() -> None:
    made = fleet(nodes=2)
    before = made.plan.epoch
    made.join("slow", memory=40 * MB, fingerprint="slow", speed=0.01)
    made.pass_time(2)
    assert made.plan.epoch == before
    made.join("fast", memory=40 * MB, fingerprint="fast", speed=4.0)
    assert "fast" in made.hosts()


def test_a_model_without_room_is_unavailable_while_others_serve_and_recovers() -> None:
    made = Fleet()
    made.add(manifest("small", blocks=2, weights=2 * MB))
    made.add(manifest("big", blocks=4, weights=20 * MB))
    made.join("n0", memory=50 * MB)
    assert made.model("small").status == "serving"
    assert made.model("big").status == "unavailable" and "more on" in made.model("big").reason
    made.join("n1", memory=80 * MB)
    assert made.model("small").status == made.model("big").status == "serving"
    made.lose("n1")
    assert made.model("small").status == "serving" and made.model("big").status == "unavailable"


def test_a_newcomer_does_not_displace_a_model_that_runs() -> None:
    made = Fleet()
    made.add(manifest("first", blocks=2, weights=15 * MB))
    made.join("n0", memory=50 * MB)
    made.add(manifest("second", blocks=4, weights=9 * MB))
    assert made.model("first").status == "serving"
    assert "would displace first" in made.model("second").reason
    made.join("n1", memory=50 * MB)
    assert made.model("second").status == "serving"


def test_the_death_of_a_node_is_planned_around_at_once() -> None:
    for disconnected in (True, False):
        made = fleet()
        made.lose("n1", disconnected)
        assert made.model().status == "serving" and "n1" not in made.hosts()


def test_plain_silence_changes_the_digest_but_not_the_plan() -> None:
    made = fleet()
    before, solves = made.plan.epoch, len(made.solves)
    made.handle(events.PeerChanged("agent:n1", PeerState.SUSPECT))
    assert {v.node: v.state for v in made.digests[-1].nodes}["n1"] == "suspect"
    made.handle(events.PeerChanged("agent:n1", PeerState.ALIVE))
    assert {v.node: v.state for v in made.digests[-1].nodes}["n1"] == "alive"
    assert (made.plan.epoch, len(made.solves)) == (before, solves)


def test_a_node_whose_executor_died_is_used_again_once_a_new_one_runs() -> None:
    made = fleet(nodes=2)
    agent = made.agents["n0"]
    made.say("agent:n0", ExecutorDown(executor=agent.executor, exit_code=-9, reason="killed"))
    assert made.model().status == "unavailable"
    assert {v.node: v.executors for v in made.digests[-1].nodes}["n0"] == ()
    agent.executor, agent.loaded = "n0/x2", ()
    made.say("agent:n0", ExecutorUp(executor=agent.info()))
    assert made.model().status == "serving"
    assert "n0/x2" in {stage.replicas[0].executor for stage in made.model().stages}


def test_gateways_are_told_what_an_executor_computed_when_it_died() -> None:
    made = fleet(nodes=2)
    executor = made.agents["n0"].executor
    made.say("agent:n0", ExecutorDown(executor=executor, exit_code=-8, reason="crashed", computing=(7, 9)))
    crashes = {view.node: view.crash for view in made.digests[-1].nodes}
    assert crashes == {"n0": Crash(executor=executor, computing=(7, 9)), "n1": None}
    assert made.digests[-1].nodes[0].executors == (), "both in one digest: the suspects are known before they go again"


def test_death_during_a_preparation_starts_over_without_the_node() -> None:
    made = fleet(nodes=2)
    made.deliver = False
    made.join("n2", memory=60 * MB)
    before = made.plan.epoch
    assert made.replies("agent:n2", Prepare)
    made.deliver = True
    made.lose("n2", disconnected=True)
    assert "n2" not in made.hosts() and made.plan.epoch >= before
    assert made.model().status == "serving"


def test_a_node_that_never_answers_a_prepare_is_left_out_and_tried_again_later() -> None:
    made = Fleet()
    made.add(manifest())
    mute = made.join("a-mute")
    assert made.hosts() == ["a-mute"]
    made.say(mute.identity, ExecutorDown(executor=mute.executor, exit_code=1, reason="x"))
    mute.executor, mute.loaded, mute.mute = "x2", (), True
    made.say(mute.identity, ExecutorUp(executor=mute.info()))
    assert made.model().status == "loading"
    made.pass_time(60.5, step=0.25)
    assert made.model().status == "unavailable" and "did not load" in made.model().reason
    mute.mute = False
    made.pass_time(3)
    assert made.model().status == "serving"


def test_a_failed_load_is_retried_ever_more_rarely_and_its_reason_shown() -> None:
    made = Fleet()
    made.add(manifest())
    agent = made.join("n0", mute=False)
    made.say(agent.identity, ExecutorDown(executor=agent.executor, exit_code=1, reason="x"))
    agent.executor, agent.loaded, agent.mute = "x2", (), True
    made.say(agent.identity, ExecutorUp(executor=agent.info()))
    asked_at: list[float] = []
    seen = 0
    for _ in range(200):
        prepares = made.replies(agent.identity, Prepare)
        if len(prepares) > seen:
            seen, question = len(prepares), prepares[-1]
            asked_at.append(made.now)
            stage = question.stages[0]
            failed = PrepareFailed(
                term=question.term, version=question.version, stage=stage, code="x", message="disk full"
            )
            made.say(agent.identity, failed)
            assert "disk full" in made.model().reason
        made.pass_time(0.25, step=0.25)
    gaps = [b - a for a, b in itertools.pairwise(asked_at)]
    assert len(gaps) >= 3 and gaps == sorted(gaps) and gaps[-1] >= 2 * gaps[0]


def test_one_problem_at_a_time_and_the_newest_inputs_win() -> None:
    made = Fleet()
    made.add(manifest())
    made.planner_works = False
    made.join("n0")
    assert len(made.solves) == 1
    made.join("n1")
    made.join("n2")
    assert len(made.solves) == 1
    made.answer_solve()
    assert len(made.solves) == 2 and made.model().status == "loading"
    made.answer_solve()
    assert set(made.hosts()) == {"n0", "n1"}


def test_a_planner_that_fails_is_asked_again_after_a_while() -> None:
    made = Fleet()
    made.add(manifest())
    made.planner_works = False
    made.join("n0")
    made.handle(events.SolveFailed(made.solves[-1].problem, "it died"))
    assert len(made.solves) == 1
    made.planner_works = True
    made.pass_time(2)
    assert made.model().status == "serving"


def test_an_answer_that_does_not_fit_the_model_is_refused() -> None:
    made = Fleet()
    made.add(manifest(blocks=4))
    made.planner_works = False
    made.join("n0")
    stages = {"net": [{"blocks": [0, 3], "nodes": ["n0"]}]}
    made.handle(events.Solved(made.solves[-1].problem, {"stages": stages, "models": {}}))
    assert not made.replies("agent:n0", Prepare)
    assert any(note.event == "answer refused" for note in made.notes)


def half_and_half(first: str, second: str) -> dict[str, object]:
    stages = [{"blocks": [0, 2], "nodes": [first]}, {"blocks": [2, 4], "nodes": [second]}]
    return {"stages": {"net": stages}, "models": {"net": {"lower_bound_s": 0.001}}}


def test_a_first_answer_is_acted_upon_and_only_a_much_better_one_starts_over() -> None:
    made = Fleet()
    made.planner_works = False
    made.add(manifest(blocks=4))
    made.join("n0")
    made.join("n1")
    made.handle(events.SolveFailed(made.solves[-1].problem, "n1 was not known yet"))
    made.pass_time(2)
    problem = made.solves[-1].problem
    whole = {"stages": {"net": [{"blocks": [0, 4], "nodes": ["n0"]}]}, "models": {}}
    made.handle(events.Solved(problem, whole, final=False))
    assert made.hosts() == ["n0"]
    made.handle(events.Solved(problem, whole, final=False))
    made.handle(events.Solved(problem, half_and_half("n1", "n0"), final=True))
    assert set(made.hosts()) == {"n0", "n1"}
    made.handle(events.Solved(problem, whole, final=True))
    assert set(made.hosts()) == {"n0", "n1"}  # the question was closed


def test_a_problem_that_was_answered_once_is_outdated_by_a_newer_one() -> None:
    made = Fleet()
    made.planner_works = False
    made.add(manifest(blocks=4))
    made.join("n0")
    first = made.solves[-1].problem
    made.join("n1")
    assert made.solves[-1].problem == first  # its first answer is soon there
    made.handle(events.Solved(first, {"stages": {}, "models": {}}, final=False))
    second = made.solves[-1].problem
    assert second == first + 1
    made.handle(events.Solved(first, half_and_half("n0", "n1"), final=True))
    assert made.hosts() == []
    made.handle(events.Solved(second, half_and_half("n0", "n1"), final=False))
    assert set(made.hosts()) == {"n0", "n1"}


def test_replacing_a_model_serves_the_old_one_until_the_new_is_loaded() -> None:
    made = fleet()
    old = made.model().manifest
    made.deliver = False
    new = made.add(manifest(blocks=3, weights=5 * MB, content="new"))
    assert made.model().manifest == old and made.model().status == "serving"
    made.deliver = True
    question = next(m for _, m in reversed(made.sent) if isinstance(m, ProfileRequest))
    agent = made.agents["n0"]
    made.say("agent:n0", agent.answer(question, {}) or question)
    assert made.model().manifest == sha(new.digest, "net") != old
    made.pass_time(11)
    for agent in made.agents.values():
        assert all(stage.manifest != old for stage in agent.loaded)


def test_a_removed_model_leaves_the_plan_at_once_and_the_workers_after_the_drain() -> None:
    made = fleet()
    made.handle(events.ModelRemoved("net"))
    assert made.plan.models == ()
    made.pass_time(11)
    assert all(agent.loaded == () for agent in made.agents.values())
    assert any(agent.count(Retire) for agent in made.agents.values())


def test_after_a_loss_what_survived_moves_as_little_as_it_may() -> None:
    made = fleet()
    before = {stage.replicas[0].node: (stage.start, stage.end) for stage in made.model().stages}
    lost = made.hosts()[1]
    made.lose(lost)
    asked = made.solves[-1].document
    assert [stage["nodes"] for stage in asked["current"]["net"]] == [[] if node == lost else [node] for node in before]
    after = {stage.replicas[0].node: range(stage.start, stage.end) for stage in made.model().stages}
    assert len(after) == 2 and all(set(range(*before[node])) <= set(run) for node, run in after.items())


def test_where_old_and_new_do_not_fit_together_the_old_makes_way() -> None:
    made = Fleet()
    made.add(manifest(blocks=6))
    for i in range(3):
        made.join(f"n{i}", memory=30 * MB + 1_500_000)
    asked = len(made.solves)
    made.lose(made.hosts()[0])
    assert made.model().status == "serving" and len(made.hosts()) == 2
    assert ["current" in solve.document for solve in made.solves[asked : asked + 2]] == [True, False]


def test_what_a_dropped_preparation_made_a_worker_load_is_retired() -> None:
    """It was loaded without an answer, so it is in no list of what the worker has."""
    made = Fleet()
    made.add(manifest(blocks=2))
    worker = made.join("a")
    made.join("b")
    assert sorted(made.hosts()) == ["a", "b"]
    worker.mute = True
    made.lose("b")
    (asked, *_) = reversed([message for message in worker.got if isinstance(message, Prepare)])
    worker.loaded, worker.mute = tuple(dict.fromkeys((*worker.loaded, *asked.stages))), False
    made.join("b", incarnation="i2")
    assert sorted(made.hosts()) == ["a", "b"]
    made.pass_time(11.0)  # the plan of one worker drains
    needed = {made.model().key(s) for s in made.model().stages if s.replicas[0].node == "a"}
    assert set(worker.loaded) == needed


def test_workers_share_a_stage_where_that_is_allowed() -> None:
    made = Fleet(max_replicas=2)
    made.add(manifest(blocks=3, weights=MB))
    for name in ("a", "b"):
        made.join(name, memory=40 * MB)
    (stage,) = made.model().stages
    assert {replica.node for replica in stage.replicas} == {"a", "b"}
    made.lose("a")
    assert made.model().status == "serving" and made.hosts() == ["b"]
