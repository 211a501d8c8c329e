"""How an executor's queue shares its time among gateways; in virtual time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline_stage.executor.queue import WorkQueue, urgency_of


@dataclass(frozen=True)
class Gateway:
    """Has `callers` that each ask again `think_s` after their answer; `window` batches at the worker at once."""

    callers: int
    batch_s: float = 1.0
    window: int = 2
    think_s: float = 0.0
    priority: int = 0
    allowed_s: float = 60.0
    begins_s: float = 0.0


class Simulated:
    """A worker and its gateways, each answered at once and asking at once."""

    def __init__(self, **gateways: Gateway) -> None:
        self.gateways = gateways
        self.queue: WorkQueue[str] = WorkQueue()
        self.waiting = {name: [(g.begins_s, i) for i in range(g.callers)] for name, g in gateways.items()}
        self.sent: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.order: list[str] = []
        self.now = 0.0

    def run(self, until_s: float) -> None:
        """Compute one batch after the other."""
        while self.now < until_s:
            for name, gateway in self.gateways.items():
                self._send(name, gateway)
            name = self.queue.take()
            if name is None:
                self.now = min(at for asked in self.waiting.values() for at, _ in asked)
                continue
            gateway = self.gateways[name]
            self.now += gateway.batch_s
            self.queue.charge(name, gateway.batch_s)
            self.sent[name] -= 1
            self.seconds[name] += gateway.batch_s
            self.order.append(name)
            self.waiting[name].append((self.now + gateway.think_s, len(self.order)))

    def _send(self, name: str, gateway: Gateway) -> None:
        """The oldest first, which have the earliest deadlines: a crowd's have waited longest."""
        asked = self.waiting[name]
        asked.sort()
        while asked and asked[0][0] <= self.now and self.sent[name] < gateway.window:
            at, _ = asked.pop(0)
            self.sent[name] += 1
            deadline_ns = int((at + gateway.allowed_s) * 1e9) + 1
            self.queue.put(urgency_of(gateway.priority, deadline_ns), name, gateway=name)


def test_a_crowd_gets_no_more_than_the_few() -> None:
    world = Simulated(crowd=Gateway(48), one=Gateway(8), other=Gateway(8))
    world.run(900)
    assert all(abs(seconds - 300) <= 2 for seconds in world.seconds.values()), world.seconds


def test_deadlines_do_not_buy_a_share() -> None:
    world = Simulated(hasty=Gateway(20, allowed_s=0.5), calm=Gateway(20, allowed_s=1000.0))
    world.run(600)
    assert abs(world.seconds["hasty"] - world.seconds["calm"]) <= 2


def test_times_are_shared_and_not_batches() -> None:
    world = Simulated(large=Gateway(20, batch_s=8.0), small=Gateway(20, batch_s=0.5))
    world.run(2000)
    assert abs(world.seconds["large"] - world.seconds["small"]) <= 16


def test_who_asks_for_less_gets_all_of_it_at_once() -> None:
    """Its single batch waits for the one that is being computed, never for those that wait."""
    world = Simulated(crowd=Gateway(48), modest=Gateway(1, think_s=8.0), other=Gateway(48))
    world.run(1000)
    assert world.seconds["modest"] >= 1000 / (8.0 + 1.0 + 1.0 + 1.0) - 1
    assert abs(world.seconds["crowd"] - world.seconds["other"]) <= 3


def test_what_one_leaves_the_others_share() -> None:
    world = Simulated(a=Gateway(48), b=Gateway(48), modest=Gateway(1, think_s=9.0))
    world.run(1000)
    assert sum(world.seconds.values()) >= 1000, "the worker never idles"
    assert min(world.seconds["a"], world.seconds["b"]) > 400


def test_nobody_saves_up_and_nobody_is_made_to_pay_for_being_first() -> None:
    world = Simulated(first=Gateway(20), second=Gateway(20, begins_s=1.0), late=Gateway(20, begins_s=500.0))
    world.run(500)
    before = dict(world.seconds)
    world.run(800)
    gained = {name: world.seconds[name] - before.get(name, 0.0) for name in world.gateways}
    assert all(abs(seconds - 100) <= 2 for seconds in gained.values()), gained


def test_priority_goes_before_fairness() -> None:
    world = Simulated(urgent=Gateway(4, priority=-1), crowd=Gateway(48))
    world.run(100)
    assert "crowd" not in world.order[1:]


def test_after_urgent_work_the_others_are_alike() -> None:
    """A gateway's urgent batches count as its time; those that waited meanwhile are not behind newcomers."""
    queue: WorkQueue[str] = WorkQueue()
    for number in range(6):
        queue.put(urgency_of(0, 0), f"low{number}", gateway="low")
        queue.put(urgency_of(-1, 0), f"high{number}", gateway="high")
    for _ in range(6):
        assert str(queue.take()).startswith("high")
        queue.charge("high", 1.0)
    for number in range(6):
        queue.put(urgency_of(0, 0), f"new{number}", gateway="new")
    taken = []
    for _ in range(12):
        taken.append(str(queue.take())[:3])
        queue.charge(taken[-1], 1.0)
    assert all({*taken[i : i + 2]} == {"low", "new"} for i in range(0, 12, 2)), taken


@pytest.mark.parametrize("gateways", [1, 1000])
def test_what_is_known_of_gateways_does_not_pile_up(gateways: int) -> None:
    queue: WorkQueue[int] = WorkQueue()
    for number in range(3000):
        queue.put(urgency_of(0, 0), number, gateway=f"g{number % gateways}/{number // 100}")
        assert queue.take() == number
        queue.charge(f"g{number % gateways}/{number // 100}", 1.0)
    assert len(queue._lanes) <= 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-1, 1), st.integers(0, 5)), max_size=30))
def test_each_gateways_own_come_by_priority_deadline_and_arrival(items: list[tuple[str, int, int]]) -> None:
    queue: WorkQueue[tuple[str, int, float, int]] = WorkQueue()
    for i, (gateway, priority, deadline) in enumerate(items):
        item = (gateway, priority, deadline or float("inf"), i)
        queue.put(urgency_of(priority, deadline), item, gateway=gateway)
    taken = []
    while (item := queue.take()) is not None:
        taken.append(item)
        queue.charge(item[0], 1.0)
    assert len(taken) == len(items) and queue.depth == 0
    assert [priority for _, priority, _, _ in taken] == sorted(priority for _, priority, _, _ in taken)
    for gateway in "abc":
        own = [one[1:] for one in taken if one[0] == gateway]
        assert own == sorted(own)
