"""Batches that a link swallowed are sent again at once, over another one where there is one."""

from __future__ import annotations

import pytest

from stageline.plan import Digest, StalledLink
from stageline_gateway import events as ev
from stageline_gateway.overtaken import OVERTAKEN
from stageline_gateway.stalled import FIRST_PAUSE_S, LONGEST_PAUSE_S


def stall(world, kit, *links, number=1):
    """The coordinator says that these links have stalled, found for the `number`th time."""
    world.sequence += 1
    stalled = tuple(StalledLink(source=a, target=b, number=number) for a, b in links)
    world.feed(ev.DigestApplied(Digest(world.term, world.version, world.sequence, kit.views(world.states), stalled)))


def routes(sent):
    return ["".join(hop.node for hop in do.header.path) for do in sent]


def wide(kit):
    made = kit.World(max_batch=1, window=100)
    made.plan([["a", "b"], ["c", "d"]])
    return made


def test_a_batch_that_two_later_ones_overtook_is_sent_again_at_once(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a"], ["b"]])
    for number in range(1, 5):
        world.ask(id=number)
    lost, *others = world.sent
    for do in others[: OVERTAKEN - 1]:
        world.answer(do)
    assert len(world.sent) == 4
    world.answer(others[OVERTAKEN - 1])
    assert len(world.sent) == 5 and world.sent[4].header.ids == lost.header.ids
    assert world.engine.stats.lost == 1
    world.answer(lost)
    assert world.code(id=1) == "result", "what was lost may come all the same"
    world.answer(others[2])
    world.answer(world.sent[4])
    assert world.settled()


def test_a_batch_that_may_wait_behind_others_is_not_thought_lost(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a"], ["b"]])
    world.ask(id=1, priority=1)
    world.ask(id=2, deadline_ms=50_000)
    for number in range(3, 9):
        world.ask(id=number, deadline_ms=10_000)
    for do in world.sent[2:]:
        world.answer(do)
    assert len(world.sent) == 8 and world.engine.stats.lost == 0


def test_only_batches_of_the_same_path_overtake_each_other(kit):
    world = wide(kit)
    for number in range(1, 9):
        world.ask(id=number)
    paths = routes(world.sent)
    assert len(set(paths)) > 1
    for do, path in zip(world.sent[1:], paths[1:], strict=True):
        if path != paths[0]:
            world.answer(do)
    assert world.engine.stats.lost == 0


@pytest.mark.parametrize("link", [("a/0", "c/0"), ("g/1", "a/0"), ("c/0", "g/1")])
def test_what_is_on_a_stalled_link_goes_out_again_around_it(kit, link):
    world = wide(kit)
    for number in range(1, 9):
        world.ask(id=number)
    before = routes(world.sent)
    hit = [path for path in before if {link[0][0], link[1][0]} <= set(f"g{path}")]
    stall(world, kit, link)
    again = routes(world.sent[8:])
    assert len(again) == len(hit) > 0
    assert not [path for path in again if {link[0][0], link[1][0]} <= set(f"g{path}")]
    stall(world, kit, link)
    assert len(world.sent) == 8 + len(hit), "said again, it is nothing new"
    for do in world.sent:
        world.answer(do)
    assert world.settled()


def test_where_no_other_way_leads_one_batch_at_a_time_tries_the_link_ever_later(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a"], ["b"]])
    for number in range(1, 5):
        world.ask(id=number)
    stall(world, kit, ("a/0", "b/0"))
    assert len(world.sent) == 5, "one try at once"
    tries = []
    pause = FIRST_PAUSE_S
    for number in range(2, 8):
        before, begun = len(world.sent), world.now
        while len(world.sent) == before:
            world.advance(0.05)
            stall(world, kit, ("a/0", "b/0"), number=1)
        assert len(world.sent) == before + 1
        tries.append(world.now - begun)
        assert tries[-1] == pytest.approx(pause, abs=0.051)
        pause = min(LONGEST_PAUSE_S, 2 * pause)
        stall(world, kit, ("a/0", "b/0"), number=number)
    assert world.engine.in_flight


def test_the_first_result_over_a_stalled_link_opens_it(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a"], ["b"]])
    for number in range(1, 5):
        world.ask(id=number)
    stall(world, kit, ("a/0", "b/0"))
    world.answer(world.sent[4])
    assert len(world.sent) == 8, "the others follow"
    for do in world.sent[5:]:
        world.answer(do)
    assert [world.code(id=number) for number in range(1, 5)] == ["result"] * 4


def test_a_link_that_is_said_to_be_good_again_is_used_again(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a"], ["b"]])
    for number in range(1, 5):
        world.ask(id=number)
    stall(world, kit, ("a/0", "b/0"))
    stall(world, kit)
    assert len(world.sent) == 8
    stall(world, kit, ("a/0", "b/0"), number=2)
    assert len(world.sent) == 9, "stalled anew"


def test_a_stalled_link_of_somebody_else_changes_nothing(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a"], ["b"]])
    world.ask()
    stall(world, kit, ("b/0", "a/0"), ("x/9", "b/0"), ("h/1", "a/0"))
    assert len(world.sent) == 1
    world.ask(id=2)
    assert len(world.sent) == 2


def test_nothing_is_settled_wrongly_when_a_request_has_failed_too_often(kit):
    world = kit.World(max_batch=1, window=100, max_attempts=2)
    world.plan([["a"], ["b"]])
    world.ask()
    stall(world, kit, ("a/0", "b/0"))
    world.advance(1.0)
    stall(world, kit, ("a/0", "b/0"), number=2)
    assert world.code() == "failed"
    assert world.settled()


def test_a_damaged_batch_goes_out_again_at_once_the_first_time_and_blames_nobody(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a", "b"], ["c"]])
    world.ask()
    world.fail(world.sent[0], retryable=True, code="damaged", node="c")
    assert len(world.sent) == 2 and world.engine.stats.damaged == 1
    assert routes(world.sent)[0] == routes(world.sent)[1]
    world.fail(world.sent[1], retryable=True, code="damaged", node="c")
    assert len(world.sent) == 2, "the second time it waits a little"
    world.advance(1.0)
    assert len(world.sent) == 3
    world.answer(world.sent[2])
    assert world.code() == "result" and world.settled()


def test_a_result_that_was_damaged_on_its_way_here_is_asked_for_again(kit):
    world = kit.World(max_batch=1, window=100)
    world.plan([["a"], ["b"]])
    world.ask()
    world.feed(ev.DamagedArrived(world.result(world.sent[0]).header))
    world.feed(ev.DamagedArrived(world.result(world.sent[0]).header))
    assert len(world.sent) == 2
    world.answer(world.sent[1])
    assert world.code() == "result" and world.settled()
