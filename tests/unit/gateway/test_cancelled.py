"""What nobody waits for any more is told to the executors, which answer for it without computing it."""

from __future__ import annotations

from stageline_gateway import events as ev


def cancels(world):
    return [do for do in world.others if isinstance(do, ev.Abandon)]


def two(kit):
    world = kit.World(max_batch=2, window=100, batch_delay_s=0.01)
    world.plan([["a"]])
    world.ask(id=1)
    world.ask(id=2)
    world.advance(0.01)
    (sent,) = world.sent
    assert len(sent.header.ids) == 2
    return world, sent


def test_a_batch_is_cancelled_with_the_last_request_that_waits_for_it(kit):
    world, sent = two(kit)
    world.feed(ev.CancelRequested(1, 1))
    assert cancels(world) == []
    world.feed(ev.CancelRequested(1, 2))
    (do,) = cancels(world)
    assert (do.address, do.header.batches, do.header.gateway) == (sent.address, (sent.header.batch,), "g/1")
    assert do.header.path == sent.header.path
    assert world.engine.credits_held != (0, 0), "executors may have it still"
    world.fail(sent, retryable=False, code="cancelled")
    assert world.settled() and world.engine.stats.spared == 1


def test_a_batch_whose_requests_expire_is_cancelled(kit):
    world = kit.World(window=100)
    world.plan([["a"]])
    world.ask(deadline_ms=100)
    world.advance(0.2)
    assert world.code() == "deadline"
    assert len(cancels(world)) == 1
    world.answer(world.sent[0])
    assert world.settled() and world.engine.stats.spared == 0


def test_a_batch_whose_client_goes_away_is_cancelled(kit):
    world, sent = two(kit)
    world.feed(ev.ClientGone(1))
    assert [do.header.batches for do in cancels(world)] == [(sent.header.batch,)]


def test_what_comes_back_is_not_cancelled(kit):
    world, sent = two(kit)
    world.answer(sent)
    assert cancels(world) == [] and world.settled()
    world.ask(id=3)
    world.advance(0.01)
    world.fail(world.sent[-1], retryable=False)
    assert world.code(id=3) == "failed" and cancels(world) == []


def test_the_slower_of_two_tries_is_cancelled_when_the_other_has_answered(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a", "b"]])
    world.ask()
    world.advance(5.0)
    first, second = world.sent[:2]
    world.answer(second)
    assert world.code() == "result"
    assert [do.header.batches for do in cancels(world)] == [(first.header.batch,)]
    assert world.settled()


def test_the_dead_are_told_nothing(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a", "b"]])
    world.ask()
    first = world.sent[0].header.path[0].node
    world.state(**{first: "gone"})
    world.answer(world.sent[1])
    assert world.code() == "result" and cancels(world) == []


def test_somebody_who_still_waits_for_a_batch_that_is_said_to_be_cancelled_gets_another(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a"]])
    world.ask()
    world.fail(world.sent[0], retryable=False, code="cancelled")
    world.answer(world.sent[1])
    assert world.code() == "result" and world.settled()
