"""Executors that die in the middle of a batch, or run out of memory: nobody pays for another's request."""

from __future__ import annotations

import pytest

from stageline.plan import Crash, Digest, NodeView, Plan
from stageline_gateway import events as ev
from stageline_gateway.core import Identity
from stageline_gateway.engine import Engine
from stageline_gateway.settings import Settings


class Fleet:
    """Two workers whose executors are replaced when they die; the one of `a` dies of what it computes."""

    def __init__(self, kit, requests, **settings):
        self.world = kit.World(batch_delay_s=0.01, **settings)
        self.kit = kit
        self.executors = {"a": 0, "b": 0}
        self.crashes = {}
        self.replan()
        for number in range(1, requests + 1):
            self.world.ask(id=number, value=number)
        self.world.advance(0.011)

    def replan(self):
        plan = self.kit.model_plan([["a"], ["b"]])
        stages = tuple(
            stage.__class__(i, i + 1, (self.replica(node),), compute_s=0.01, output_bytes=2)
            for i, (stage, node) in enumerate(zip(plan.stages, "ab", strict=True))
        )
        self.world.states = {}
        self.world.version += 1
        model = plan.__class__("m", plan.manifest, plan.signature, "serving", stages=stages, input_bytes=2)
        self.world.feed(ev.PlanApplied(plan_of(self.world.version, model, self.views())))

    def replica(self, node):
        endpoint = self.kit.replica(node).endpoint
        return self.kit.replica(node).__class__(node, f"{node}/{self.executors[node]}", endpoint)

    def views(self):
        return tuple(
            NodeView(node, "i", "alive", (f"{node}/{number}",), self.crashes.get(node))
            for node, number in self.executors.items()
        )

    def dies(self, node, *computing):
        """The executor dies; the coordinator tells, twice, and plans with the new one."""
        self.crashes[node] = Crash(f"{node}/{self.executors[node]}", computing)
        self.executors[node] += 1
        for _ in range(2):
            self.world.sequence += 1
            world = self.world
            world.feed(ev.DigestApplied(Digest(world.term, world.version, world.sequence, self.views())))
        self.replan()


def plan_of(version, model, views):
    return Plan(1, version, (model,), views)


def test_the_culprit_is_found_and_its_mates_are_answered(kit):
    fleet = Fleet(kit, 6)
    world = fleet.world
    batch = world.sent[0]
    assert len(batch.header.ids) == 3, "half of them; the others are for the other stage"
    culprit = batch.header.ids[1]
    before = len(world.sent)
    fleet.dies("a", *batch.header.ids)
    assert sorted(s.header.ids for s in world.sent[before:] if len(s.header.ids) == 1) == [
        (key,) for key in sorted(batch.header.ids)
    ]
    fleet.dies("a", culprit)
    assert world.code(id=2) == "failed"
    error = world.outcome(id=2).error
    assert (error.node, "died whenever it computed the request" in error.message) == ("a", True)
    done = 0
    while done < len(world.sent):
        world.answer(world.sent[done])
        done += 1
    assert [world.code(id=i) for i in (1, 3, 4, 5, 6)] == ["result"] * 5
    assert world.settled()


def test_what_only_waited_there_is_not_suspected(kit):
    fleet = Fleet(kit, 6, window=10)
    world = fleet.world
    first, second = world.sent[:2]
    before = len(world.sent)
    fleet.dies("a", *first.header.ids)
    world.advance(0.011)
    assert second.header.ids in [s.header.ids for s in world.sent[before:]], "the others travel together as before"


def test_one_death_is_no_proof(kit):
    fleet = Fleet(kit, 1, max_batch=1)
    fleet.dies("a", *fleet.world.sent[0].header.ids)
    fleet.world.answer(fleet.world.sent[1])
    assert fleet.world.code() == "result"


def test_nor_is_one_in_company(kit):
    fleet = Fleet(kit, 2, max_batch=1)
    world = fleet.world
    ids = tuple(s.header.ids[0] for s in world.sent)
    fleet.dies("a", *ids)
    fleet.dies("a", *ids)
    assert (world.code(id=1), world.code(id=2)) == ("none", "none")


def test_a_crash_on_another_path_or_of_another_gateway_is_not_ours(kit):
    fleet = Fleet(kit, 1)
    world = fleet.world
    key = world.sent[0].header.ids[0]
    fleet.executors["c"] = 0
    fleet.dies("c", key)
    fleet.dies("a", key + 1000)
    fleet.dies("a", key)
    assert world.code() == "none"


def test_it_may_kill_executors_of_different_stages(kit):
    fleet = Fleet(kit, 1)
    world = fleet.world
    key = world.sent[0].header.ids[0]
    fleet.dies("a", key)
    fleet.dies("b", key)
    assert world.code() == "failed"
    assert world.outcome().error.node == "b"


def test_ids_begin_where_they_are_told(kit):
    world = kit.World()
    world.engine = Engine(Settings(batch_delay_s=0.0), Identity("g/1", kit.replica("g").endpoint, 5000))
    world.plan([["a"]])
    world.ask()
    assert world.sent[0].header.ids == (5000,)


class TestMemory:
    @pytest.fixture
    def full(self, kit):
        world = kit.World(batch_delay_s=0.01, max_batch=8)
        world.plan([["a"]])
        for i in range(1, 9):
            world.ask(id=i, value=i)
        return world

    def starve(self, world, most):
        """Answer batches of up to `most` items, and fail the others for want of memory."""
        done = 0
        while done < len(world.sent):
            sent = world.sent[done]
            done += 1
            if sum(sent.header.rows) > most:
                world.fail(sent, retryable=True, code="out_of_memory")
            else:
                world.answer(sent)
            world.advance(0.011)

    def test_a_batch_is_halved_until_it_fits(self, full):
        self.starve(full, 2)
        assert [full.code(id=i) for i in range(1, 9)] == ["result"] * 8
        assert [full.values(id=i) for i in range(1, 9)] == [bytes([i + 1] * 2) for i in range(1, 9)]
        assert sorted(sum(s.header.rows) for s in full.sent) == [2, 2, 2, 2, 4, 4, 8]
        assert full.settled()

    def test_others_may_still_fill_a_batch(self, full):
        self.starve(full, 4)
        before = len(full.sent)
        for i in range(101, 109):
            full.ask(id=i)
        assert [sum(s.header.rows) for s in full.sent[before:]] == [8]

    def test_alone_it_is_tried_again_later(self, kit):
        world = kit.World()
        world.plan([["a"]])
        world.ask()
        world.fail(world.sent[0], retryable=True, code="out_of_memory")
        assert len(world.sent) == 1
        world.advance(0.06)
        world.answer(world.sent[1])
        assert world.code() == "result"
