"""Both ends of a link tell what passed; from that it is found where batches vanish, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageline.messages import Mark, Passage
from stageline_coordinator.stalls import FORGET_S, STALL_S, STEP_S, Stall, Stalls

STEP = 0.1


class Link:
    """`a` sends to `b`; each tells every 100 ms. What is lost in between is up to the test."""

    def __init__(self, stalls: Stalls | None = None, nbytes: int = 1000) -> None:
        self.stalls, self.nbytes = stalls or Stalls(), nbytes
        self.now, self.sent, self.received, self.looks = 0.0, 0, 0, 0

    def step(self, *, send: int = 0, deliver: bool = True, look: bool = True, seconds: float = STEP) -> list[Stall]:
        self.now += seconds
        self.sent += send
        if deliver:
            self.received = self.sent
        self.looks += look
        went = (Mark(gateway="g", peer="b", batch=self.sent, nbytes=self.nbytes),) if self.sent else ()
        came = (Mark(gateway="g", peer="a", batch=self.received),) if self.received else ()
        found = list(self.stalls.heard(Passage(end="a", looks=self.looks, went=went), self.now))
        return found + list(self.stalls.heard(Passage(end="b", looks=self.looks, came=came), self.now))

    def until(self, limit: float = 10.0, **how: object) -> float:
        """Seconds until a stall is found."""
        begun = self.now
        while self.now - begun < limit:
            if self.step(**how):  # type: ignore[arg-type]
                return self.now - begun
        raise AssertionError("no stall was found")


def test_a_link_that_works_or_rests_is_never_found_stalled() -> None:
    link = Link()
    for i in range(100):
        assert not link.step(send=i % 3)
    assert not any(link.step() for _ in range(100))
    assert link.stalls.stalled == ()


def test_a_link_that_swallows_batches_is_found_within_a_few_heartbeats_and_named_by_its_direction() -> None:
    link = Link()
    link.step(send=5)
    seconds = link.until(send=2, deliver=False)
    assert STALL_S <= seconds <= STALL_S + 3 * STEP
    (stalled,) = link.stalls.stalled
    assert (stalled.source, stalled.target) == ("a", "b")


def test_one_batch_that_is_lost_is_found_once() -> None:
    link = Link()
    link.step(send=5)
    link.step(send=1, deliver=False)
    link.until(deliver=False)
    number = link.stalls.stalled[0].number
    assert not any(link.step(deliver=False) for _ in range(50))
    assert link.stalls.stalled[0].number == number


def test_each_further_batch_that_is_lost_is_a_strike_until_one_comes() -> None:
    link = Link()
    strikes = []
    for _ in range(3):
        link.step(send=1, deliver=False)
        while not (found := link.step(deliver=False)):
            pass
        strikes.append(found[0].strikes)
    assert strikes == [1, 2, 3]
    assert not link.step(send=1)
    assert link.stalls.stalled == ()
    link.step(send=1, deliver=False)
    while not (found := link.step(deliver=False)):
        pass
    assert found[0].strikes == 1


def test_a_receiver_that_does_not_look_says_nothing_of_the_link() -> None:
    link = Link()
    link.step(send=5)
    assert not any(link.step(send=1, deliver=False, look=False) for _ in range(100))
    assert not link.step(seconds=5.0), "it comes back, and everything is there"


def test_an_observer_that_stood_still_takes_that_for_no_more_than_a_step() -> None:
    link = Link()
    link.step(send=5)
    link.step(send=1, deliver=False)
    assert STEP_S < STALL_S
    assert not link.step(deliver=False, seconds=60.0)


def test_a_large_message_on_a_slow_link_is_waited_for() -> None:
    slow = Link(Stalls(lambda source, target: 1e6), nbytes=2_000_000)
    slow.step(send=1)
    slow.step(send=1, deliver=False)
    assert not any(slow.step(deliver=False) for _ in range(20))
    assert not slow.step()
    unknown = Link(nbytes=2_000_000)
    unknown.step(send=1)
    unknown.step(send=1, deliver=False)
    assert not any(unknown.step(deliver=False) for _ in range(20))


def test_batches_lost_while_others_come_are_not_ours_to_find() -> None:
    link = Link()
    for _ in range(50):
        assert not link.step(send=3)


def test_a_link_that_is_used_no_more_is_forgotten() -> None:
    link = Link()
    link.step(send=1, deliver=False)
    link.until(deliver=False)
    assert not link.stalls.forget(link.now + FORGET_S / 2)
    assert link.stalls.forget(link.now + FORGET_S) and link.stalls.stalled == ()


def test_gateways_do_not_hide_each_others_batches() -> None:
    stalls = Stalls()
    now = 0.0
    for step in range(20):
        now += STEP
        went = tuple(Mark(gateway=g, peer="b", batch=n, nbytes=1) for g, n in (("g", 1000), ("h", 1 + step // 10)))
        came = (Mark(gateway="g", peer="a", batch=1000), Mark(gateway="h", peer="a", batch=1))
        list(stalls.heard(Passage(end="a", looks=step, went=went), now))
        found = list(stalls.heard(Passage(end="b", looks=step, came=came), now))
        if found:
            break
    assert step > 10 and stalls.stalled


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.02, 0.1, 0.3, 2.0])), max_size=60), st.data())
def test_nothing_is_found_as_long_as_batches_are_late_by_less_than_the_patience(
    steps: list[tuple[int, float]], data: st.DataObject
) -> None:
    """A batch that went comes with one of the next two looks, whatever stalls between them."""
    stalls = Stalls()
    now, sent, history = 0.0, 0, [0]
    for number, (send, seconds) in enumerate(steps):
        now += seconds
        sent += send
        history.append(sent)
        late = data.draw(st.integers(0, 1))
        came = tuple(Mark(gateway="g", peer="a", batch=b) for b in (history[-1 - late],) if b)
        went = tuple(Mark(gateway="g", peer="b", batch=b, nbytes=10) for b in (sent,) if b)
        assert not list(stalls.heard(Passage(end="a", looks=number, went=went), now))
        assert not list(stalls.heard(Passage(end="b", looks=number, came=came), now))


@pytest.mark.parametrize("count", [1, 40])
def test_numbers_are_never_used_twice(count: int) -> None:
    stalls = Stalls()
    link = Link(stalls)
    seen = []
    for _ in range(count):
        link.step(send=1, deliver=False)
        link.until(deliver=False)
        seen.append(stalls.stalled[0].number)
        link.step(send=1)
    assert len(set(seen)) == count
