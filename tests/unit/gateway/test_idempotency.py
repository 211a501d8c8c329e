"""Idempotency keys: one computation and one outcome per key, for however many ask, in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageline_gateway import events as ev


def keyed(world, id=1, client=1, key="k", **more):
    world.ask(client=client, id=id, idempotency_key=key, **more)


def test_a_retry_attaches_to_the_one_in_flight(world):
    keyed(world, id=1)
    keyed(world, id=2)
    keyed(world, id=1, client=2, want_timings=True)
    assert len(world.sent) == 1
    world.answer(world.sent[0])
    assert world.values(1, 1) == world.values(1, 2) == world.values(2, 1) == bytes([9, 9])
    assert world.outcome(1, 2).result.id == 2
    assert world.outcome(1, 1).result.timings is None
    assert world.settled()
    assert world.engine.stats.attached == 2


def test_it_survives_its_connection_and_is_answered_on_the_next(world):
    keyed(world, client=1)
    world.feed(ev.ClientGone(1))
    assert not world.engine.idle
    keyed(world, client=2)
    world.answer(world.sent[0])
    assert world.code(2, 1) == "result"
    assert (1, 1) not in world.outcomes


def test_the_outcome_is_kept_for_a_while(kit):
    world = kit.World(answer_keep_s=10.0)
    world.plan([["a"]])
    keyed(world)
    world.feed(ev.ClientGone(1))
    world.answer(world.sent[0])
    world.advance(9.9)
    keyed(world, client=2)
    assert world.code(2, 1) == "result"
    assert len(world.sent) == 1
    assert world.engine.stats.replayed == 1
    world.advance(0.2)
    assert world.engine.answers_kept == (0, 0)
    keyed(world, client=2, id=2)
    assert len(world.sent) == 2


def test_a_failure_is_an_outcome_too(world):
    keyed(world)
    world.fail(world.sent[0], retryable=False)
    keyed(world, id=2)
    assert world.code(id=1) == world.code(id=2) == "failed"
    assert len(world.sent) == 1


@pytest.mark.parametrize(
    "change", [{"value": 8}, {"rows": 2}, {"level": 1}], ids=["other bytes", "other shape", "other level"]
)
@pytest.mark.parametrize("done", [False, True])
def test_a_key_with_other_content_is_refused(world, change, done):
    keyed(world)
    if done:
        world.answer(world.sent[0])
    keyed(world, id=2, **change)
    assert world.code(id=2) == "invalid_input"
    assert "was used with other inputs: use a new key" in world.outcome(id=2).error.message
    keyed(world, id=3)
    assert len(world.sent) == 1


def test_users_and_models_have_keys_of_their_own(world, kit):
    world.plan_models(kit.model_plan([["a"]]), kit.model_plan([["a"]], name="n"))
    keyed(world, id=1, user="u")
    keyed(world, id=2, user="v")
    keyed(world, id=3, user="u", model="n")
    assert sum(world.engine.in_flight.values()) == 3


def test_cancelling_one_leaves_the_others(world):
    keyed(world, id=1)
    keyed(world, id=2)
    world.feed(ev.CancelRequested(1, 1))
    assert world.code(id=1) == "cancelled"
    world.answer(world.sent[0])
    assert world.code(id=2) == "result"


def test_cancelling_the_last_one_recalls_the_work_and_frees_the_key(kit):
    world = kit.World(window=1)
    world.plan([["a"]])
    world.ask(id=9)
    keyed(world, id=1)
    keyed(world, id=2)
    world.feed(ev.CancelRequested(1, 1))
    world.feed(ev.CancelRequested(1, 2))
    assert world.code(id=1) == world.code(id=2) == "cancelled"
    world.answer(world.sent[0])
    assert len(world.sent) == 1
    assert world.settled()
    keyed(world, id=3)
    assert len(world.sent) == 2


def test_each_is_told_at_its_own_deadline(world):
    keyed(world, id=1, deadline_ms=1000)
    keyed(world, id=2, deadline_ms=200)
    keyed(world, id=3, deadline_ms=1800)
    world.advance(0.21)
    assert [world.code(id=i) for i in (1, 2, 3)] == ["none", "deadline", "none"]
    world.advance(1.0)
    assert [world.code(id=i) for i in (1, 2, 3)] == ["deadline", "deadline", "none"]
    world.answer(world.sent[0])
    assert world.code(id=3) == "result"
    assert world.settled()


def test_without_a_client_it_ends_at_its_deadline_and_frees_the_key(world):
    keyed(world, deadline_ms=500)
    world.feed(ev.ClientGone(1))
    world.advance(0.6)
    assert world.engine.idle
    keyed(world, client=2)
    assert len(world.sent) == 2


def test_one_id_twice_ends_the_connection(world):
    keyed(world)
    keyed(world)
    assert [type(o) for o in world.others] == [ev.Disconnect]


def test_what_is_not_admitted_frees_the_key(kit):
    world = kit.World(max_in_flight=1)
    world.plan([["a"]])
    world.ask(id=1)
    keyed(world, id=2)
    assert world.code(id=2) == "rejected"
    world.answer(world.sent[0])
    keyed(world, id=3)
    world.answer(world.sent[1])
    assert world.code(id=3) == "result"


def test_those_who_wait_are_bounded(kit):
    world = kit.World(max_in_flight=3)
    world.plan([["a"]])
    for i in range(1, 5):
        keyed(world, id=i)
    assert [world.code(id=i) for i in range(1, 5)] == ["none", "none", "none", "rejected"]
    assert world.outcome(id=4).error.retry_after_s > 0


def test_what_a_connected_client_was_told_makes_room_first(kit):
    world = kit.World(answer_keep_bytes=3 * 1100, window=8)
    world.plan([["a"]])
    for i in range(1, 4):
        keyed(world, client=i, key=f"k{i}")
    world.feed(ev.ClientGone(1))
    for sent in list(world.sent):
        world.answer(sent)
    assert world.engine.answers_kept[0] == 3
    keyed(world, client=4, key="k4")
    world.answer(world.sent[3])
    keyed(world, client=5, id=1, key="k1")
    assert world.code(5, 1) == "result"
    keyed(world, client=5, id=2, key="k2")
    assert len(world.sent) == 5
    assert world.engine.answers_kept[1] <= 3300


def test_a_kept_answer_is_given_while_draining_but_nothing_is_begun(world):
    keyed(world)
    world.answer(world.sent[0])
    world.feed(ev.DrainBegan())
    keyed(world, id=2)
    keyed(world, id=3, key="other")
    assert (world.code(id=2), world.code(id=3)) == ("result", "rejected")


def test_the_kept_answer_does_not_hold_the_batch(kit):
    world = kit.World(batch_delay_s=0.01)
    world.plan([["a"]])
    keyed(world, id=1, value=1)
    world.ask(id=2, value=2)
    world.advance(0.02)
    world.answer(world.sent[0])
    assert isinstance(world.outcome(id=1).buffers[0], bytes)
    assert world.values(id=1) == bytes([2, 2])


step = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 3), st.integers(0, 2), st.sampled_from([0, 300, 3000])),
    st.tuples(st.just("answer"), st.integers(0, 30)),
    st.tuples(st.just("fail"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("advance"), st.sampled_from([0.001, 0.2, 1.0, 6.0])),
    st.tuples(st.just("cancel"), st.integers(1, 3), st.integers(1, 40)),
    st.tuples(st.just("gone"), st.integers(1, 3)),
)


class Run:
    """Three keys, each with bytes of its own. A key that someone waits for is being computed."""

    def __init__(self, kit):
        self.world = kit.World(
            max_batch=1, window=50, default_deadline_s=8.0, answer_keep_s=5.0, answer_keep_bytes=2300
        )  # fmt: skip
        self.world.plan([["a"]])
        self.asked: dict[tuple[int, int], int] = {}
        self.left: set[tuple[int, int]] = set()

    def ask(self, client, key, deadline_ms):
        number = len(self.asked) + 1
        before = len(self.world.sent)
        busy = any(
            k == key and who not in self.world.outcomes and who not in self.left for who, k in self.asked.items()
        )
        self.asked[(client, number)] = key
        self.world.ask(client, number, 10 * key, idempotency_key=f"key-{key}", deadline_ms=deadline_ms)
        if busy:
            assert len(self.world.sent) == before

    def answer(self, which):
        if self.world.sent:
            self.world.answer(self.world.sent[which % len(self.world.sent)])

    def fail(self, which, retryable):
        if self.world.sent:
            self.world.fail(self.world.sent[which % len(self.world.sent)], retryable=retryable)

    def advance(self, seconds):
        self.world.advance(seconds)

    def cancel(self, client, number):
        self.world.feed(ev.CancelRequested(client, number))

    def gone(self, client):
        self.left |= {key for key in self.asked if key[0] == client and key not in self.world.outcomes}
        self.world.feed(ev.ClientGone(client))

    def check(self):
        for who, key in self.asked.items():
            found = self.world.outcomes.get(who, [])
            assert len(found) <= (who not in self.left)
            if found and isinstance(found[0], ev.Answer):
                assert bytes(found[0].buffers[0]) == bytes([10 * key + 1] * 2)
        assert sum(self.world.engine.in_flight.values()) <= 3
        assert self.world.engine.answers_kept[1] <= 2300


@settings(max_examples=200, deadline=None)
@given(st.lists(step, max_size=50))
def test_one_computation_and_one_outcome_per_key(kit, steps):
    run = Run(kit)
    for name, *values in steps:
        getattr(run, name)(*values)
        run.check()
    run.advance(20.0)
    run.check()
    assert set(run.asked) == set(run.world.outcomes) | run.left
    run.advance(10.0)
    assert run.world.engine.answers_kept == (0, 0)
    for sent in list(run.world.sent):
        run.world.answer(sent)
    assert run.world.settled()
