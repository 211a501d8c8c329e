"""A worker dies while the coordinator is away: the gateway finds out by itself, and goes on with the other replica."""

from __future__ import annotations

import pytest


class Pool:
    """Answers at once what was sent to a path without the `dead`; `tried` counts what was sent to them, by time."""

    def __init__(self, world, dead):
        self.world, self.dead = world, dead
        self.seen = 0
        self.tried: list[float] = []

    def settle(self):
        while self.seen < len(self.world.sent):
            sent = self.world.sent[self.seen]
            self.seen += 1
            if self.dead & {hop.node for hop in sent.header.path}:
                self.tried.append(self.world.now)
            else:
                self.world.answer(sent)

    def run(self, seconds, first=1):
        """A request every 50 ms, which has 20 s. Returns how many."""
        number = first
        for step in range(round(seconds / 0.01)):
            self.world.advance(0.01)
            if step % 5 == 0:
                self.world.ask(id=number, deadline_ms=20_000, value=number % 200)
                number += 1
            self.settle()
        return number - first


@pytest.mark.parametrize("stages", [[["a", "b"]], [["c"], ["a", "b"]], [["a", "b"], ["c"], ["d", "e"]]])
def test_requests_are_answered_by_the_other_replica(kit, stages):
    world = kit.World(max_batch=1)
    world.plan(stages)
    pool = Pool(world, {"a"})
    count = pool.run(20.0)
    pool.run(5.0, first=count + 1)
    codes = [world.code(id=i) for i in range(1, count + 1)]
    assert codes.count("result") == count
    assert max(o.result.attempts for (o,) in world.outcomes.values()) == 2
    window = 2 * len(stages)
    assert len(pool.tried) <= window + 4, "after the first were late, it gets one batch after ever longer pauses"


def test_one_that_answers_again_is_used_again(kit):
    world = kit.World(max_batch=1)
    world.plan([["a", "b"]])
    pool = Pool(world, {"a"})
    count = pool.run(6.0)
    pool.dead = set()
    before = len(world.sent)
    pool.run(10.0, first=count + 1)
    nodes = [sent.header.path[0].node for sent in world.sent[before:]]
    assert nodes.count("a") > len(nodes) // 3


def test_when_all_are_blamed_the_work_goes_on(kit):
    world = kit.World(max_batch=1)
    world.plan([["a", "b"]])
    pool = Pool(world, {"a", "b"})
    count = pool.run(5.0)
    pool.dead = set()
    world.advance(9.0)
    pool.settle()
    world.advance(9.0)
    pool.settle()
    assert {world.code(id=i) for i in range(1, count + 1)} == {"result"}
