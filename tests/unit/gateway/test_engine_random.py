"""Whatever happens in whatever order: one outcome per request, its own bytes, and nothing is held at the end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stageline_gateway import events as ev

NODES = ("a", "b", "c", "d")
PLANS = ([["a"], ["b"]], [["a", "c"], ["b"]], [["d"], ["c", "b"]], [["c"]], [])

step = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 3), st.sampled_from([1, 2, 3, 9]), st.sampled_from([0, 0, 40, 3000])),
    st.tuples(st.just("answer"), st.integers(0, 30)),
    st.tuples(st.just("garble"), st.integers(0, 30)),
    st.tuples(st.just("fail"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("state"), st.sampled_from(NODES), st.sampled_from(["alive", "suspect", "draining", "gone"])),
    st.tuples(st.just("plan"), st.integers(0, len(PLANS) - 1)),
    st.tuples(st.just("advance"), st.sampled_from([0.001, 0.02, 0.5, 2.5, 15.0])),
    st.tuples(st.just("cancel"), st.integers(1, 3), st.integers(1, 40)),
    st.tuples(st.just("gone"), st.integers(1, 3)),
)


class Run:
    def __init__(self, kit, planned):
        values = {"batch_delay_s": 0.005, "max_batch": 4, "max_in_flight": 12, "default_deadline_s": 20.0}
        self.world = kit.World(started=100.0, drain_s=1.0, **values)
        self.world.states = dict.fromkeys(NODES, "alive")
        if planned:
            self.world.plan(PLANS[1])
        self.asked: dict[tuple[int, int], tuple[int, int]] = {}

    def ask(self, client, rows, deadline_ms):
        number = len(self.asked) + 1
        self.asked[(client, number)] = (number % 256, rows)
        self.world.ask(client=client, id=number, value=number % 256, rows=rows, deadline_ms=deadline_ms, priority=rows)

    def answer(self, which):
        if self.world.sent:
            self.world.answer(self.world.sent[which % len(self.world.sent)])

    def garble(self, which):
        if self.world.sent:
            sent = self.world.sent[which % len(self.world.sent)]
            self.world.answer(sent, ids=tuple(i + 1 for i in sent.header.ids))

    def fail(self, which, retryable):
        if self.world.sent:
            self.world.fail(self.world.sent[which % len(self.world.sent)], retryable=retryable)

    def state(self, node, state):
        self.world.state(**{node: state})

    def plan(self, which):
        self.world.plan(PLANS[which], status="serving" if PLANS[which] else "unavailable")

    def advance(self, seconds):
        self.world.advance(seconds)

    def cancel(self, client, number):
        self.world.feed(ev.CancelRequested(client, number))

    def gone(self, client):
        self.world.feed(ev.ClientGone(client))

    def check(self):
        for key, (value, rows) in self.asked.items():
            found = self.world.outcomes.get(key, [])
            assert len(found) <= 1
            if found and isinstance(found[0], ev.Answer):
                data = bytes(found[0].buffers[0])
                assert len(data) == 2 * rows
                assert {(byte - value) % 256 for byte in data} <= {1, 2}, "one or two stages, another's bytes otherwise"
        waiting = sum(key not in self.world.outcomes for key in self.asked)
        engine = self.world.engine
        assert engine.idle == (not waiting)
        assert bool(sum(engine.in_flight.values())) == bool(waiting)
        assert waiting <= 12


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(step, max_size=60))
def test_every_request_gets_exactly_one_outcome(kit, planned, steps):
    run = Run(kit, planned)
    for name, *values in steps:
        getattr(run, name)(*values)
        run.check()
    for _ in range(30):
        run.advance(2.0)
        run.check()
    assert set(run.asked) == set(run.world.outcomes)
    for sent in list(run.world.sent):
        run.world.answer(sent)
    assert run.world.settled()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(1, 4)), min_size=1, max_size=30), st.integers(1, 4))
def test_a_live_cluster_answers_everything_in_rank_order(kit, requests, window):
    world = kit.World(window=window, max_batch=4)
    world.plan([["a"]])
    world.state(a="suspect")
    for i, (priority, rows) in enumerate(requests, 1):
        world.ask(id=i, value=i, rows=rows, priority=priority)
    world.state(a="alive")
    done = 0
    while done < len(world.sent):
        world.answer(world.sent[done])
        done += 1
    order = [key for sent in world.sent for key in sent.header.ids]
    assert order == sorted(order, key=lambda key: (requests[key - 1][0], key))
    assert all(sum(s.header.rows) <= 4 for s in world.sent)
    assert all(world.code(id=i) == "result" for i in range(1, len(requests) + 1))
    assert world.settled()
