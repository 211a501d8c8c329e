"""A model that cannot be loaded: it alone is not served, and says why; the others are, at once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from fleet import MB, FakeAgent, Fleet, manifest, sha

from stageline.errors import NotReadyError
from stageline.manifest import ModelManifest
from stageline.messages import ExecutorDown, ExecutorUp, Prepare, PrepareFailed
from stageline.plan import StageKey
from stageline.wire import Message
from stageline_coordinator import events
from stageline_coordinator.loadfailures import LoadFailures
from stageline_coordinator.snapshot import problem_now

DAMAGED = "blob b1411… came damaged and was discarded"


@dataclass
class Failing(FakeAgent):
    """Fails to load what is in `broken` (manifest → code), unless it has it; `asked`: when, on the fleet's clock."""

    broken: dict[str, str] = field(default_factory=dict)

    def answer(self, message: Message, models: dict[str, ModelManifest]) -> Message | None:
        if isinstance(message, Prepare):
            for stage in message.stages:
                code = self.broken.get(stage.manifest)
                if code and stage not in self.loaded:
                    self.got.append(message)
                    return PrepareFailed(message.term, message.version, stage, code, DAMAGED)
        return super().answer(message, models)


def key(model: ModelManifest) -> str:
    """What the fleet registers it as."""
    return sha(model.digest, model.name)


def join(made: Fleet, name: str, broken: dict[str, str], **settings: Any) -> Failing:
    agent = made.agents[name] = Failing(name, broken=broken, **settings)
    made.say(agent.identity, agent.hello())
    return agent


def restart(made: Fleet, name: str) -> None:
    """The worker's executor, with all that it had."""
    agent = made.agents[name]
    made.say(agent.identity, ExecutorDown(executor=agent.executor, exit_code=1, reason="x"))
    agent.executor, agent.loaded = f"{agent.executor}+", ()
    made.say(agent.identity, ExecutorUp(executor=agent.info()))


def three(code: str = "blob_corrupt") -> tuple[Fleet, dict[str, str]]:
    """Three models, of which none can load `slow` any more since two workers were restarted; what they share."""
    made, broken = Fleet(), dict[str, str]()
    models = [made.add(manifest(name, blocks=4, weights=2 * MB)) for name in ("quick", "slow", "other")]
    for name in ("a", "b"):
        join(made, name, broken)
    assert all(made.model(model.name).status == "serving" for model in models)
    broken[key(models[1])] = code
    for name in ("a", "b"):
        restart(made, name)
    return made, broken


def test_a_model_that_no_worker_can_load_holds_no_other_back() -> None:
    made, _ = three()
    assert [made.model(name).status for name in ("quick", "slow", "other")] == ["serving", "unavailable", "serving"]
    assert {"a", "b"} == {*made.hosts("quick"), *made.hosts("other")}
    assert made.now == 0.0, "not after a while"


def test_the_reason_is_the_models_and_says_what_to_do() -> None:
    made, broken = three()
    (graph,) = broken
    reason = made.model("slow").reason
    assert DAMAGED in reason and reason.count(DAMAGED) == 1, "the same cause is told once"
    assert "slow failed to load on a (blocks" in reason and ", b (blocks" in reason
    assert reason.endswith("add slow again with `stageline models add`")
    assert graph[:12] not in reason and "left out" not in reason
    assert made.model("quick").reason == made.model("other").reason == ""
    with pytest.raises(NotReadyError, match="slow failed to load on a"):
        problem_now(made.cluster, ["slow"], made.now)
    assert {model["name"] for model in problem_now(made.cluster, [], made.now)["models"]} == {"quick", "other"}


def test_only_what_adding_again_mends_is_to_be_added_again() -> None:
    made, _ = three("store")
    assert DAMAGED in made.model("slow").reason and "models add" not in made.model("slow").reason


def test_while_it_is_tried_again_ever_more_rarely_the_others_are_served() -> None:
    made, _ = three()
    agent = made.agents["a"]
    (slow,) = agent.broken  # type: ignore[attr-defined]
    asked, seen = list[float](), 0
    for _ in range(100):
        made.pass_time(0.5)
        assert [made.model(name).status for name in ("quick", "other")] == ["serving", "serving"]
        new = [m for m in agent.got[seen:] if isinstance(m, Prepare) and any(s.manifest == slow for s in m.stages)]
        asked, seen = [*asked, *([made.now] * len(new))], len(agent.got)
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert len(gaps) >= 3 and gaps == sorted(gaps) and gaps[-1] >= 2 * gaps[0]


def test_it_is_served_at_once_when_it_is_added_again_mended() -> None:
    made, broken = three()
    made.pass_time(0.5)
    broken.clear()
    before = made.now
    made.add(manifest("slow", blocks=4, weights=2 * MB))
    assert made.now == before and made.model("slow").status == "serving" and made.model("slow").reason == ""


def test_it_comes_back_by_itself_once_it_can_be_loaded() -> None:
    made, broken = three()
    broken.clear()
    made.pass_time(2)
    assert made.model("slow").status == "serving"


def test_when_it_is_removed_the_others_go_on_and_newcomers_are_served_at_once() -> None:
    made, _ = three()
    made.handle(events.ModelRemoved("slow"))
    assert [model.status for model in made.plan.models] == ["serving", "serving"]
    made.add(manifest("fourth", blocks=4, weights=2 * MB))
    assert made.model("fourth").status == "serving"


def test_a_newcomer_beside_it_is_served_at_once() -> None:
    made, _ = three()
    made.add(manifest("fourth", blocks=4, weights=2 * MB))
    assert made.model("fourth").status == "serving" and made.model("slow").status == "unavailable"


def test_where_one_worker_cannot_load_it_another_does() -> None:
    made = Fleet()
    models = [manifest(name, blocks=2, weights=2 * MB) for name in ("quick", "slow")]
    join(made, "a", {key(models[1]): "blob_corrupt"})
    join(made, "b", {})
    for model in models:
        made.add(model)
    assert {made.model("quick").status, made.model("slow").status} == {"serving"}
    assert set(made.hosts("slow")) == {"b"} and made.now == 0.0
    made.add(manifest("third", blocks=2, weights=30 * MB))
    made.add(manifest("fourth", blocks=2, weights=30 * MB))
    assert "a" in {*made.hosts("third"), *made.hosts("fourth")}, "the worker is used for all else"


def test_a_failure_to_move_it_leaves_what_runs_of_it_and_newcomers_are_served() -> None:
    made = Fleet()
    model = made.add(manifest("slow", blocks=6))
    for name in ("a", "b"):
        join(made, name, {}, memory=70 * MB)
    before = made.model("slow").stages
    for agent in made.agents.values():
        agent.broken[key(model)] = "blob_corrupt"  # type: ignore[attr-defined]
    join(made, "c", {key(model): "blob_corrupt"}, memory=70 * MB, fingerprint="fast", speed=4.0)
    assert made.model("slow").status == "serving" and made.model("slow").stages == before
    assert any(note.event == "prepare failed" and note.fields["model"] == "slow" for note in made.notes)
    made.add(manifest("new", blocks=2, weights=5 * MB))
    assert {one.status for one in made.plan.models} == {"serving"} and made.model("slow").stages == before
    restart(made, "a")
    assert [one.status for one in made.plan.models] == ["unavailable", "serving"], "it is planned anew, and not in vain"
    assert "slow failed to load on a" in made.model("slow").reason


def test_answers_that_come_late_count_once_and_no_other_answer_does() -> None:
    made = Fleet()
    model = made.add(manifest("net", blocks=6))
    agents = [join(made, name, {}, memory=40 * MB) for name in ("a", "b")]
    made.deliver = False
    for name in ("a", "b"):
        restart(made, name)
    made.planner_works = False
    asked = [made.replies(agent.identity, Prepare)[-1] for agent in agents]
    assert asked[0].version == asked[1].version
    failed = [PrepareFailed(one.term, one.version, one.stages[0], "blob_corrupt", DAMAGED) for one in asked]
    for one, agent in zip([failed[0], failed[1], failed[1]], [agents[0], agents[1], agents[1]], strict=True):
        made.say(agent.identity, one)
    found = [made.cluster.members.nodes[name].load_failures.last(key(model)) for name in ("a", "b")]
    assert [one.times for one in found if one] == [1, 1]
    assert "a (blocks" in made.model("net").reason and "b (blocks" in made.model("net").reason


def test_a_worker_that_denies_what_it_was_thought_to_have_is_believed() -> None:
    made = Fleet()
    net, more = manifest("net", blocks=2), manifest("more", blocks=2)
    agent = join(made, "a", {})
    for model in (net, more):
        made.add(model)
    made.handle(events.ModelRemoved("more"))
    made.pass_time(11)
    made.deliver = False
    made.add(more)
    asked, had = made.replies(agent.identity, Prepare)[-1], StageKey(key(net), 0, 2)
    assert had in asked.stages and had in made.cluster.members.nodes["a"].loaded()
    made.say(agent.identity, PrepareFailed(asked.term, asked.version, had, "store", DAMAGED))
    assert had not in made.cluster.members.nodes["a"].loaded() and DAMAGED in made.model("net").reason
    assert [stage.manifest for stage in made.replies(agent.identity, Prepare)[-1].stages] == [key(more)]


def test_a_plan_that_does_not_fit_a_worker_is_no_models_fault() -> None:
    made, _ = three("placement")
    assert "no worker is usable" in made.model("slow").reason
    assert "a is left out for now: it could not load its stages: " in made.model("slow").reason


def test_what_it_had_before_is_no_sign_that_it_can_load_more() -> None:
    half, other = StageKey("m", 0, 2), StageKey("n", 0, 4)
    found = LoadFailures()
    found.add(StageKey("m", 0, 4), "x", "y", (half, other), 0.0)
    assert found.now == {"m"}
    found.loaded([half, other])
    assert found.now == {"m"}
    found.retry(1.0)
    assert not found.now and found.last("m") is not None
    found.add(StageKey("m", 0, 4), "x", "y", (half,), 1.0)
    found.retry(2.5)
    assert found.now == {"m"}, "twice as long the second time"
    found.loaded([StageKey("m", 2, 4)])
    assert not found.now and found.last("m") is None
