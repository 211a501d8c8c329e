"""Several gateways in front of the same worker: neither starves, whatever their clocks and deadlines are."""

from __future__ import annotations

import heapq
from itertools import count

import pytest

ITEM_S = 0.01


class Worker:
    """Computes one batch after the other, the most urgent first, as executors order them."""

    def __init__(self):
        self.heap = []
        self.order = count()

    def take(self, world, seen):
        for sent in world.sent[seen:]:
            header = sent.header
            heapq.heappush(self.heap, (header.priority, header.deadline_ns, next(self.order), world, sent))
        return len(world.sent)

    def step(self):
        if self.heap:
            *_, world, sent = heapq.heappop(self.heap)
            world.answer(sent)


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
            seen[i] = worker.take(world, seen[i])
        worker.step()
    answered = [
        sum(world.code(id=n) == "result" for n in range(1, number + 1))
        for world, number in zip(worlds, numbers, strict=True)
    ]
    assert sum(answered) > 1400
    assert min(answered) > 0.25 * sum(answered), answered
