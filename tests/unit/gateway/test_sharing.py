"""Several gateways in front of the same worker: neither starves, whatever their clocks and deadlines are."""

from __future__ import annotations

import pytest

from stageline_stage.executor.queue import WorkQueue, urgency_of

ITEM_S = 0.01


class Worker:
    """Computes one batch after the other, in the order that an executor's queue gives."""

    def __init__(self):
        self.queue = WorkQueue()

    def take(self, world, name, seen):
        for sent in world.sent[seen:]:
            header = sent.header
            urgency = urgency_of(header.priority, header.deadline_ns)
            self.queue.put(urgency, (name, world, sent), gateway=name)
        return len(world.sent)

    def step(self):
        item = self.queue.take()
        if item is not None:
            name, world, sent = item
            self.queue.charge(name, ITEM_S)
            world.answer(sent)


def answered(world, asked):
    return sum(world.code(id=n) == "result" for n in range(1, asked + 1))


@pytest.mark.parametrize("deadlines_ms", [(2_000, 2_000), (500, 2_000)])
def test_neither_of_two_gateways_starves(kit, deadlines_ms):
    """One machine was started a day after the other; both ask for three times what the worker can do."""
    worlds = [kit.World(now=100.0, unix_s=86_400.0, max_batch=1), kit.World(now=86_500.0, max_batch=1)]
    for world in worlds:
        world.plan([["a"]])
    worker, seen, numbers = Worker(), [0, 0], [0, 0]
    for step in range(1500):
        for i, world in enumerate(worlds):
            world.advance(ITEM_S)
            for _ in range(1 + step % 2):
                numbers[i] += 1
                world.ask(id=numbers[i], deadline_ms=deadlines_ms[i])
            seen[i] = worker.take(world, f"g{i}", seen[i])
        worker.step()
    got = [answered(world, number) for world, number in zip(worlds, numbers, strict=True)]
    assert sum(got) > 1400
    assert min(got) > 0.45 * sum(got), got


def test_a_crowd_at_one_gateway_gets_what_the_few_at_another_get(kit):
    """Each has its callers ask again once they are answered."""
    callers = (48, 8, 8)
    worlds = [kit.World(now=100.0, max_batch=1) for _ in callers]
    numbers, seen = list(callers), [0] * len(callers)
    for world, many in zip(worlds, callers, strict=True):
        world.plan([["a"]])
        for number in range(1, many + 1):
            world.ask(id=number, deadline_ms=60_000)
    worker = Worker()
    for _ in range(600):
        for i, world in enumerate(worlds):
            world.advance(ITEM_S)
            for _ in range(answered(world, numbers[i]) + callers[i] - numbers[i]):
                numbers[i] += 1
                world.ask(id=numbers[i], deadline_ms=60_000)
            seen[i] = worker.take(world, f"g{i}", seen[i])
        worker.step()
    got = [answered(world, number) for world, number in zip(worlds, numbers, strict=True)]
    assert sum(got) == 600, "the worker never waited"
    assert max(got) - min(got) <= 2, got
