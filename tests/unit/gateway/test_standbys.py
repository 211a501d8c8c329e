"""Stages that are loaded elsewhere: used when the plan's own replicas cannot be, and only then."""

from __future__ import annotations

import pytest

from stageline_gateway.reach import GRACE_S

STAGES, STANDBYS = [["a"], ["b"]], [["b"], ["a"]]


def path(sent):
    return [hop.node for hop in sent.header.path]


@pytest.fixture
def guarded(kit):
    """Two workers, each of which can do the other's part."""
    world = kit.World(max_batch=1)
    world.plan(STAGES, standbys=STANDBYS)
    return world


def test_they_get_no_work_while_the_plan_is_whole(guarded):
    for number in range(1, 20):
        guarded.ask(id=number)
    assert {tuple(path(sent)) for sent in guarded.sent} == {("a", "b")}
    assert guarded.engine.stats.on_standbys == 0


@pytest.mark.parametrize("state", ["suspect", "gone"])
def test_what_was_in_flight_goes_to_them_at_once(guarded, state):
    for number in (1, 2, 3):
        guarded.ask(id=number)
    guarded.state(b=state)
    assert [path(sent) for sent in guarded.sent] == [["a", "b"]] * 3 + [["a", "a"]] * 3
    assert {sent.header.epoch for sent in guarded.sent} == {(1, 1)}, "no new plan was needed"
    assert guarded.engine.stats.on_standbys == 3
    for sent in guarded.sent[3:]:
        guarded.answer(sent)
    assert [guarded.code(id=number) for number in (1, 2, 3)] == ["result"] * 3


def test_a_suspect_may_still_be_the_first_to_answer(guarded):
    guarded.ask()
    guarded.state(b="suspect")
    first, second = guarded.sent
    guarded.answer(first)
    assert guarded.code() == "result"
    guarded.answer(second)
    assert guarded.settled()


def test_the_plan_s_own_are_used_again_when_they_are_back(guarded):
    guarded.state(b="suspect")
    guarded.ask(id=1)
    guarded.state(b="alive")
    guarded.ask(id=2)
    assert [path(sent) for sent in guarded.sent] == [["a", "a"], ["a", "b"]]


def test_without_one_a_suspect_is_waited_for(kit):
    world = kit.World(max_batch=1)
    world.plan(STAGES)
    world.ask(id=1)
    world.state(b="suspect")
    world.ask(id=2)
    assert [path(sent) for sent in world.sent] == [["a", "b"]]
    world.answer(world.sent[0])
    assert world.code(id=1) == "result"
    world.state(b="alive")
    assert len(world.sent) == 2


def test_nothing_is_sent_again_before_there_is_a_way_around_every_suspect(kit):
    world = kit.World(max_batch=1)
    world.plan(STAGES, standbys=[[], ["a"]])
    world.ask()
    world.state(a="suspect", b="suspect")
    assert len(world.sent) == 1
    world.state(a="alive")
    assert [path(sent) for sent in world.sent] == [["a", "b"], ["a", "a"]]


def test_a_dead_standby_is_no_help(guarded):
    guarded.state(a="gone")
    guarded.ask(id=1)
    assert path(guarded.sent[0]) == ["b", "b"]
    guarded.state(b="gone")
    guarded.ask(id=2)
    assert len(guarded.sent) == 1
    assert "no live worker for stage 1 of 2" in guarded.engine.describe("m")[0].reason


def test_two_may_die_at_once_where_there_are_two(kit):
    world = kit.World(max_batch=1)
    world.plan([["a"], ["b"]], standbys=[["b", "c"], ["a", "c"]])
    world.ask()
    world.state(a="gone", b="gone")
    assert path(world.sent[-1]) == ["c", "c"]


def test_windows_of_standbys_are_as_wide_as_those_of_the_plan(kit):
    world = kit.World(max_batch=1, window=3)
    world.plan(STAGES, standbys=STANDBYS)
    world.state(b="suspect")
    for number in range(1, 9):
        world.ask(id=number)
    assert len(world.sent) == 3
    world.answer(world.sent[0])
    assert len(world.sent) == 4
    for number in range(1, 8):
        world.answer(world.sent[number])
    assert world.settled()
    assert all(path(sent) == ["a", "a"] for sent in world.sent)


class TestWithoutACoordinator:
    """It says nothing: the gateway's own connections show who has died, and overdue batches who hangs."""

    def test_a_connection_that_stays_broken_is_a_death(self, guarded):
        guarded.ask(id=1)
        guarded.link("b", False)
        guarded.ask(id=2)
        assert len(guarded.sent) == 2, "nothing is concluded at once"
        guarded.advance(GRACE_S)
        assert [path(sent) for sent in guarded.sent[2:]] == [["a", "a"], ["a", "a"]]
        for sent in guarded.sent[2:]:
            guarded.answer(sent)
        assert guarded.code(id=1) == guarded.code(id=2) == "result"

    def test_one_that_is_made_again_is_none(self, guarded):
        guarded.ask()
        guarded.link("b", False)
        guarded.advance(GRACE_S / 2)
        guarded.link("b", True)
        guarded.advance(GRACE_S)
        assert len(guarded.sent) == 1

    def test_one_that_is_made_again_later_is_used_again(self, guarded):
        guarded.link("b", False)
        guarded.advance(GRACE_S)
        guarded.ask(id=1)
        guarded.link("b", True)
        guarded.ask(id=2)
        assert [path(sent) for sent in guarded.sent] == [["a", "a"], ["a", "b"]]

    def test_repeated_news_do_not_put_it_off(self, guarded):
        guarded.ask()
        for _ in range(5):
            guarded.link("b", False)
            guarded.advance(GRACE_S / 4)
        assert len(guarded.sent) == 2

    def test_without_another_way_it_changes_nothing(self, kit):
        world = kit.World(max_batch=1)
        world.plan(STAGES)
        world.ask(id=1)
        world.link("b", False)
        world.advance(2 * GRACE_S)
        world.ask(id=2)
        assert [path(sent) for sent in world.sent] == [["a", "b"], ["a", "b"]]

    def test_replicas_of_the_plan_come_first(self, kit):
        world = kit.World(max_batch=1)
        world.plan([["a"], ["b", "c"]], standbys=[[], ["a"]])
        world.link("b", False)
        world.advance(GRACE_S)
        for number in range(1, 5):
            world.ask(id=number)
        assert {tuple(path(sent)) for sent in world.sent} == {("a", "c")}

    def test_a_new_plan_has_connections_of_its_own(self, guarded):
        guarded.link("b", False)
        guarded.advance(GRACE_S)
        guarded.plan([["a"], ["c"]])
        guarded.plan(STAGES, standbys=STANDBYS)
        guarded.ask()
        assert path(guarded.sent[0]) == ["a", "b"]

    def test_one_that_hangs_is_left_alone_once_batches_are_overdue(self, kit):
        world = kit.World(max_batch=1)
        world.plan([["a"]], standbys=[["b"]])
        number, answered = 0, 0
        for step in range(2000):
            world.advance(0.01)
            if step % 5 == 0 and step < 600:
                number += 1
                world.ask(id=number, deadline_ms=20_000)
            while answered < len(world.sent):
                sent, answered = world.sent[answered], answered + 1
                if path(sent) == ["b"]:
                    world.answer(sent)
        assert {world.code(id=i) for i in range(1, number + 1)} == {"result"}
        assert sum(path(sent) == ["a"] for sent in world.sent) <= 8, "its window, and a batch now and then"
