"""More is asked for than can be computed: the excess is refused at once, and what is computed is in time."""

from __future__ import annotations

import heapq
import random

import pytest

from stageline_gateway import events as ev
from stageline_gateway.capacity import Capacity

ITEM_S = 0.02


class Simulation:
    """A worker that computes one batch after the other, `speed(now)` times as fast as it should, in virtual time."""

    def __init__(self, kit, speed=lambda now: 1.0, **settings):
        self.world = kit.World(**{"max_batch": 1, "max_in_flight": 100_000, **settings})
        self.world.plan([["a"]])
        self.random = random.Random(3)
        self.speed = speed
        self.begun = self.world.now
        self.free_at = self.world.now
        self.results: list[tuple[float, int]] = []
        self.seen = 0
        self.asked: dict[int, float] = {}

    def run(self, rate, seconds, deadline_s):
        """Poisson arrivals, then whatever is left."""
        end, at = self.world.now + seconds, self.world.now
        while at < end:
            self._until(at)
            number = len(self.asked) + 1
            self.asked[number] = at
            self.world.ask(id=number, deadline_ms=deadline_s * 1e3, value=number % 200)
            self._note()
            at += self.random.expovariate(rate)
        self._until(end + 10)

    def goodput(self, after_s=0.0):
        """Answers per second of those asked for later than `after_s`."""
        asked = {n: at for n, at in self.asked.items() if at - self.begun >= after_s}
        good = sum(self.world.code(id=n) == "result" for n in asked)
        return good / (max(asked.values()) - min(asked.values()))

    def codes(self):
        found = [self.world.code(id=n) for n in self.asked]
        return {code: found.count(code) for code in set(found)}

    def _until(self, at):
        while self.results and self.results[0][0] <= at:
            when, which = heapq.heappop(self.results)
            self.world.advance(when - self.world.now)
            self.world.answer(self.world.sent[which])
            self._note()
        self.world.advance(at - self.world.now)
        self._note()

    def _note(self):
        now = self.world.now
        for which in range(self.seen, len(self.world.sent)):
            rows = sum(self.world.sent[which].header.rows)
            took = ITEM_S * rows * self.random.uniform(0.7, 1.3) / self.speed(now - self.begun)
            self.free_at = max(self.free_at, now) + took
            heapq.heappush(self.results, (self.free_at, which))
        self.seen = len(self.world.sent)


def goodputs(kit, deadline_s, **more):
    """By multiples of the capacity."""
    found = {}
    for multiple in (0.9, 1.0, 3.0):
        simulation = Simulation(kit, **more)
        simulation.run(multiple / ITEM_S, 15.0, deadline_s)
        found[multiple] = simulation.goodput(after_s=3.0)
    return found


@pytest.mark.parametrize(("deadline_s", "max_batch"), [(0.2, 1), (1.0, 1), (1.0, 8), (5.0, 1)])
def test_goodput_at_three_times_the_capacity_is_that_of_the_peak(kit, deadline_s, max_batch):
    found = goodputs(kit, deadline_s, max_batch=max_batch)
    assert found[3.0] >= 0.95 * max(found.values()), found


def test_a_worker_that_stumbles_costs_little_more_than_its_stumbling(kit):
    found = goodputs(kit, 1.0, speed=lambda now: 0.4 if now % 3.0 < 1.0 else 1.0)
    assert found[3.0] >= 0.85 * max(found.values()), found


def test_the_excess_is_refused_at_once_with_a_time_to_come_back(kit):
    simulation = Simulation(kit)
    simulation.run(3 / ITEM_S, 10.0, 1.0)
    codes = simulation.codes()
    assert codes["rejected"] > 0.5 * len(simulation.asked)
    assert codes.get("deadline", 0) < 0.02 * len(simulation.asked)
    world = simulation.world
    refused = [o[0] for o in world.outcomes.values() if isinstance(o[0], ev.Refuse) and o[0].error.code == "rejected"]
    assert all(o.seconds == 0.0 for o in refused)
    assert all(0.05 <= o.error.retry_after_s <= 1.0 for o in refused[10:])
    assert "items wait before the request" in refused[0].error.message
    assert world.settled()


class TestAdmission:
    @pytest.fixture
    def busy(self, kit):
        """20 ms an item, one at a time, 30 of them waiting with plenty of time."""
        world = kit.World(max_batch=1, window=1)
        world.plan([["a"]])
        for i in range(1, 62):
            world.ask(id=i, deadline_ms=60_000)
        for _ in range(30):
            world.advance(0.02)
            world.answer(world.sent[-1])
        return world

    def test_what_would_be_late_is_refused(self, busy):
        busy.ask(id=100, deadline_ms=60_000, priority=1)
        busy.ask(id=101, deadline_ms=500, priority=1)
        assert (busy.code(id=100), busy.code(id=101)) == ("none", "rejected")
        assert busy.outcome(id=101).error.retry_after_s == pytest.approx(0.3, rel=0.1)

    def test_only_what_goes_before_it_counts(self, busy):
        busy.ask(id=100, deadline_ms=500)
        busy.ask(id=101, deadline_ms=500, priority=-1)
        assert (busy.code(id=100), busy.code(id=101)) == ("none", "none")

    def test_without_workers_nothing_is_known(self, busy):
        busy.state(a="suspect")
        busy.ask(id=100, deadline_ms=500, priority=1)
        assert busy.code(id=100) == "none"

    def test_a_full_table_tells_when_half_the_queue_is_gone(self, kit):
        world = kit.World(max_batch=1, window=1, max_in_flight=61)
        world.plan([["a"]])
        for i in range(1, 62):
            world.ask(id=i)
        for i in range(30):
            world.advance(0.02)
            world.answer(world.sent[-1])
            world.ask(id=100 + i)
        world.ask(id=200)
        assert world.outcome(id=200).error.retry_after_s == pytest.approx(0.6, rel=0.1)


class TestDispatch:
    def test_what_cannot_be_in_time_makes_room(self, kit):
        world = kit.World(max_batch=1, window=1)
        world.plan([["a"]])
        world.ask(id=1)
        world.advance(0.1)
        world.answer(world.sent[0])
        world.ask(id=2)
        world.ask(id=3, deadline_ms=150)
        world.ask(id=4)
        world.advance(0.1)
        assert world.code(id=3) == "none"
        world.answer(world.sent[1])
        world.ask(id=5, deadline_ms=50)
        assert [s.header.ids for s in world.sent] == [(1,), (2,), (3,)]

    def test_with_something_on_its_way_it_is_told_at_once(self, kit):
        world = kit.World(max_batch=1, window=2)
        world.plan([["a"]])
        world.ask(id=1)
        world.advance(0.1)
        world.answer(world.sent[0])
        world.ask(id=2)
        world.ask(id=3, deadline_ms=50)
        assert world.code(id=3) == "deadline"
        assert "0.05 s are left, and computing takes 0.1 s" in world.outcome(id=3).error.message
        assert len(world.sent) == 2

    def test_an_idle_worker_is_tried(self, kit):
        world = kit.World(max_batch=1)
        world.plan([["a"]])
        world.ask(id=1)
        world.advance(1.0)
        world.answer(world.sent[0])
        world.ask(id=2, deadline_ms=500)
        world.advance(0.1)
        world.answer(world.sent[1])
        assert world.code(id=2) == "result"


class TestCapacity:
    def test_the_rate_is_that_of_a_full_queue(self):
        capacity, now = Capacity(), 100.0
        for waiting in [True] * 20 + [False, True, True]:
            now += 0.1 if waiting else 5.0
            capacity.answered(2, now - 0.3, now, waiting=waiting)
        assert capacity.item_s == pytest.approx(0.05, rel=0.25)
        assert capacity.shortest_s == pytest.approx(0.3)
        assert capacity.expected_s(10) == pytest.approx(0.3 + 10 * capacity.item_s)

    def test_nothing_is_known_at_first(self):
        capacity = Capacity()
        capacity.answered(1, 0.0, 0.1, waiting=True)
        capacity.answered(1, 0.0, 0.2, waiting=True)
        assert capacity.item_s == 0.0
        assert capacity.retry_after_s(1000) > 0

    def test_a_stall_is_soon_forgotten(self):
        capacity, now = Capacity(), 0.0
        for pause in [0.01] * 200 + [30.0] + [0.01] * 1000:
            now += pause
            capacity.answered(1, now - 0.02 - (pause > 1) * pause, now, waiting=True)
            assert pause > 1 or capacity.usual_s == pytest.approx(0.02)
        assert capacity.item_s == pytest.approx(0.01, rel=0.1)

    def test_what_was_on_its_way_during_a_stall_is_no_measure(self):
        capacity = Capacity()
        for i in range(50):
            capacity.answered(1, 0.01 * i, 0.01 * i + 0.02, waiting=True)
        for _ in range(50):
            capacity.answered(1, 0.5, 9.0, waiting=True)
        assert capacity.usual_s == pytest.approx(0.02)

    def test_slow_models_are_measured_too(self):
        capacity, now = Capacity(), 0.0
        for _ in range(20):
            now += 5.0
            capacity.answered(1, now - 10.0, now, waiting=True)
        assert capacity.usual_s == pytest.approx(10.0)
        assert capacity.item_s == pytest.approx(5.0)
