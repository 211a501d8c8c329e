"""What users want of plans reaches the problem, and the cluster moves to plans that heed it."""

from __future__ import annotations

import random

import pytest
from fleet import MB, FakeAgent, Fleet, link, manifest

from stageline.plan import StageKey
from stageline.wishes import Wishes
from stageline_coordinator import events
from stageline_coordinator.bottleneck import objective_s
from stageline_coordinator.figures import Figure, FigureBook, FigureKey
from stageline_coordinator.network import Network
from stageline_coordinator.peers import Node
from stageline_coordinator.placement import Slot, build_problem
from stageline_coordinator.planner import Problem, StageAssignment
from stageline_coordinator.planner.evaluate import evaluate
from stageline_coordinator.snapshot import problem_now
from stageline_coordinator.wanted import Barred, Wanted


def wish(made: Fleet, model: str = "net", **said: object) -> None:
    made.handle(events.WishesSet(model, Wishes(**said)))  # type: ignore[arg-type]


def used(made: Fleet, model: str = "net") -> set[str]:
    return {replica.node for stage in made.model(model).stages for replica in stage.replicas}


def fleet(*names: str, blocks: int = 4, weights: int = MB) -> Fleet:
    """Workers with room for all of a model of 10 ms a block."""
    made = Fleet()
    made.add(manifest(blocks=blocks, weights=weights))
    for name in names:
        made.join(name)
    assert made.model().status == "serving"
    return made


def test_a_forbidden_node_hosts_nothing_and_comes_back() -> None:
    made = fleet("a", "b")
    assert used(made) == {"a", "b"}
    wish(made, forbidden=("a", "nobody"))
    assert used(made) == {"b"}
    document = problem_now(made.cluster, (), made.now)
    (model,), nodes = document["models"], [node["id"] for node in document["nodes"]]
    assert all(block["seconds"][nodes.index("a")] is None for block in model["blocks"])
    assert all(block["seconds"][nodes.index("b")] is not None for block in model["blocks"])
    wish(made)
    assert used(made) == {"a", "b"}
    assert problem_now(made.cluster, (), made.now)["replan"] == {"threshold": 0.1, "tolerance": 0.02}


def test_one_model_may_go_where_another_must_not() -> None:
    made = fleet("a", "b")
    made.add(manifest("other", blocks=2, weights=MB))
    wish(made, forbidden=("a",))
    assert used(made) == {"b"} and made.model("other").status == "serving"
    assert used(made, "other") == {"a"}


def test_a_model_without_any_node_left_is_not_served_and_says_so() -> None:
    made = fleet("a", "b")
    wish(made, forbidden=("a", "b"))
    assert made.model().status == "unavailable" and not made.model().stages
    unset = "`stageline models set net --unset forbid` takes that back"
    assert made.model().reason == f"model net is forbidden on every worker (a, b): {unset}"
    wish(made, forbidden=("b",))
    assert made.model().status == "serving" and used(made) == {"a"}


def test_a_model_without_room_says_which_workers_it_is_kept_off() -> None:
    made = Fleet()
    made.join("a")
    made.add(manifest("big", blocks=2, weights=4000 * MB))
    wish(made, "big", forbidden=("a",))
    made.join("b")
    reason = made.model("big").reason
    assert "fits on no node" in reason and "; model big is forbidden on a: `stageline models set big" in reason


def test_workers_that_are_forbidden_or_cordoned_are_told_apart() -> None:
    key = StageKey(manifest="m", start=0, end=2)
    names = [f"n{i}" for i in range(12)]
    held = {
        "n0": frozenset({key}),
        "n1": frozenset({StageKey(manifest="m", start=0, end=1)}),
        "n2": frozenset[StageKey](),
    }
    barred = Wanted(models={"net": Wishes(forbidden=("n2", "n3"))}, held=held).barred("net", key, names)
    assert (barred.forbidden, barred.cordoned) == (("n2", "n3"), ("n1",))
    assert barred.covers(["n1", "n3"]) and not barred.covers(["n0", "n1"])
    assert barred.among(["n1"]).why("everybody") == "n1 is cordoned: `stageline nodes uncordon` takes that back"
    assert barred.why("everybody").startswith("model net is forbidden on n2, n3: ")
    assert Barred("net").why() == ""
    everyone = Barred("net", forbidden=tuple(names)).why("every worker")
    assert "on every worker (n0, n1, n2, n3, n4, n5, n6, n7 and 4 more): " in everyone


def test_the_first_stage_goes_to_the_source_as_long_as_that_is_there() -> None:
    made = fleet("a", "b", "c")
    for source in ("c", "a", "b"):
        wish(made, source=source)
        assert made.hosts()[0] == source
    made.lose("b")
    assert made.model().status == "serving" and "b" not in used(made)
    assert "source" not in problem_now(made.cluster, (), made.now)["models"][0]
    made.join("b", incarnation="i2")
    assert made.hosts()[0] == "b"


def test_equal_nodes_do_not_swap_roles_against_what_is_wanted() -> None:
    made = Fleet()
    made.add(manifest(blocks=2, weights=MB))
    wish(made, source="a")
    b = made.join("b")
    assert len(b.loaded) == 1  # all of it
    made.join("a")
    assert made.hosts() == ["a", "b"]
    wish(made, source="b")
    assert made.hosts() == ["b", "a"]


def test_a_required_node_is_used_though_it_is_slow() -> None:
    made = fleet("a", "b")
    made.join("slow", fingerprint="old", speed=0.01)
    assert used(made) == {"a", "b"}
    wish(made, required=("slow", "nobody"))
    assert "slow" in used(made)
    assert problem_now(made.cluster, (), made.now)["models"][0]["required"] == ["slow"]
    wish(made)
    assert "slow" not in used(made)


def test_a_required_node_serves_the_model_that_it_is_required_of() -> None:
    made = fleet("a", "b")
    made.add(manifest("other", blocks=2, weights=MB))
    made.join("slow", fingerprint="old", speed=0.01)
    wish(made, "other", required=("slow",))
    assert "slow" in used(made, "other") and "slow" not in used(made)
    wish(made, "other")
    wish(made, required=("slow",))
    assert "slow" in used(made) and "slow" not in used(made, "other")


def test_replicas_are_allowed_for_one_model_and_taken_back() -> None:
    made = fleet("a", "b", blocks=1)
    assert len(used(made)) == 1
    wish(made, max_replicas=2)
    assert used(made) == {"a", "b"} and len(made.model().stages) == 1
    wish(made, max_replicas=1)
    assert len(used(made)) == 1


def test_with_latency_as_objective_hops_are_not_worth_it() -> None:
    made = Fleet()
    made.add(manifest(blocks=4, weights=MB))
    slow = link(1.0, rtt_s=1.0)
    for name, other in (("a", "b"), ("b", "a")):
        made.join(name, links={f"agent:{other}": slow})
    made.pass_time(5.0)
    assert len(used(made)) == 2 and made.model().objective == "throughput"
    made.handle(events.ObjectiveSet("latency"))
    assert len(used(made)) == 1 and made.model().objective == "latency"
    assert made.model().bottleneck_s == pytest.approx(0.04)
    assert problem_now(made.cluster, (), made.now)["objective"] == "latency"
    made.add(manifest("other", blocks=1, weights=MB))
    assert problem_now(made.cluster, (), made.now)["objective"] == "weighted"
    made.handle(events.ObjectiveSet("throughput"))
    made.handle(events.ModelRemoved("other"))
    assert len(used(made)) == 2


def test_standbys_stay_off_forbidden_nodes() -> None:
    made = Fleet(standbys=1)
    for name in ("a", "b", "c"):
        made.join(name)
    made.add(manifest(blocks=1, weights=MB))
    ((host,), (standby,)) = ([r.node for r in which] for s in made.model().stages for which in (s.replicas, s.standbys))
    (spare,) = {"a", "b", "c"} - {host, standby}
    wish(made, forbidden=(standby,))
    (stage,) = made.model().stages
    assert [[r.node for r in which] for which in (stage.replicas, stage.standbys)] == [[host], [spare]]
    wish(made, forbidden=(standby, spare))
    (stage,) = made.model().stages
    assert not stage.standbys and stage.exposed.startswith("model net is forbidden on every other worker (")
    made.pass_time(11.0)
    assert made.agents[standby].loaded == ()


def test_a_plan_that_is_good_enough_stays() -> None:
    made = fleet("a", blocks=3)
    before, solves = made.plan, len(made.solves)
    made.handle(events.ObjectiveSet("latency"))
    wish(made, priority=3.0, rate_per_s=7.5)
    assert made.plan.models == before.models and len(made.solves) > solves
    (model,) = problem_now(made.cluster, (), made.now)["models"]
    assert (model["priority"], model["rate_per_s"]) == (3.0, 7.5)


def test_what_was_wanted_of_a_model_goes_with_it() -> None:
    made = fleet("a", "b")
    wish(made, forbidden=("a",))
    made.handle(events.ModelRemoved("net"))
    made.add(manifest(weights=MB))
    assert used(made) == {"a", "b"}


@pytest.mark.parametrize("seed", range(40))
def test_the_coordinator_and_the_planner_mean_the_same_seconds(seed: int) -> None:
    """Of random placements, for every objective, with rates, priorities and replicas."""
    rng = random.Random(seed)
    names = ("a", "b", "c")
    chains = {name: manifest(name, blocks=3) for name in ("x", "y")}
    nodes = [Node(FakeAgent(name, fingerprint=name).hello()) for name in names]
    graphs = [(block.graph, name) for chain in chains.values() for block in chain.blocks for name in names]
    book = FigureBook({FigureKey(graph, name): Figure(rng.uniform(0.1, 1.0)) for graph, name in graphs})
    wishes = {
        name: Wishes(
            max_replicas=3, priority=rng.choice([None, 0.0, 1.0, 2.5]), rate_per_s=rng.choice([None, 1.0, 4.0])
        )
        for name in chains
    }
    wanted = Wanted(rng.choice(["throughput", "latency", "weighted"]), 1, wishes)
    models = {name: (name, chain) for name, chain in chains.items()}
    problem = build_problem(nodes, models, book, Network(), wanted)
    rates = [[rng.uniform(50.0, 5000.0) for _ in names] for _ in names]
    delays = [[rng.uniform(0.0, 0.1) for _ in names] for _ in names]
    problem["links"] = {"bandwidth_bytes_per_s": rates, "latency_s": delays}
    for way in ("ingress", "egress"):
        problem[way] = {"bandwidth_bytes_per_s": rng.choice(rates), "latency_s": rng.choice(delays)}
    placed = {}
    for name in chains:
        cut, hosts = rng.randint(1, 2), rng.sample(names, 3)
        split = rng.randint(1, 2)
        placed[name] = (Slot(0, cut, tuple(hosts[:split])), Slot(cut, 3, tuple(hosts[split:])))
    stages = {name: [StageAssignment((s.start, s.end), s.nodes) for s in slots] for name, slots in placed.items()}
    found = evaluate(Problem.from_json(problem), stages)
    assert not found.faults
    assert objective_s(problem, placed) == pytest.approx(found.objective_s)
