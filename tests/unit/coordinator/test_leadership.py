"""Who leads, and under which term."""

from __future__ import annotations

from stageline.coordinators import NO_TERM_FROM, number_of
from stageline_coordinator.leadership import Lead, Leadership, Promise, Remembered, StepDown

A, B = 7, 9


def founder(*, partner: bool, taken: int = 0, promised: int = 0) -> Leadership:
    return Leadership(Remembered(A, True, True, taken, promised), partner=partner)


def standby(*, able: bool = True, taken: int = 0, promised: int = 0) -> Leadership:
    return Leadership(Remembered(B, False, able, taken, promised), partner=True)


def test_alone_it_leads_at_once_under_the_next_term() -> None:
    assert list(founder(partner=False).start()) == [Lead(1)]
    assert list(founder(partner=False, taken=4, promised=4).start()) == [Lead(5)]


def test_with_a_partner_it_waits_to_hear_of_it() -> None:
    one = founder(partner=True, taken=4, promised=4)
    assert list(one.start()) == []
    assert list(one.silent()) == [Lead(5)]


def test_it_follows_a_partner_that_leads() -> None:
    one = founder(partner=True, taken=4, promised=4)
    theirs = 5 << 20 | B
    assert list(one.heard(B, theirs, theirs, leads=True)) == [Promise(theirs)]
    assert list(one.silent()) == [], "nobody needs a coordinator yet"
    (taken,) = one.called(0)
    assert isinstance(taken, Lead) and taken.term > theirs and number_of(taken.term) == 6
    assert taken.term & 0xFFFFF == A


def test_of_two_that_stand_by_the_one_leads_that_led_last() -> None:
    one, other = founder(partner=True, taken=4, promised=4), standby(promised=4)
    assert list(other.heard(A, 4, 4, leads=False)) == []
    assert list(one.heard(B, 4, 0, leads=False)) == [Lead(5)]


def test_what_was_said_before_it_started_does_not_make_it_lead() -> None:
    """The partner took over since, and its heartbeats from before waited for us."""
    one, theirs = founder(partner=True, taken=4, promised=4), 5 << 20 | B
    assert list(one.heard(B, 4, 0, leads=False, stamp=3, echo=one.stamp + 1)) == []
    assert list(one.heard(B, theirs, theirs, leads=True, stamp=3, echo=0)) == [Promise(theirs)]
    assert one.echo == 3, "so the partner's next words can be told from those"
    assert list(one.heard(B, theirs, theirs, leads=True, stamp=3, echo=one.stamp)) == [] and not one.leading


def test_what_was_said_since_it_started_does() -> None:
    one = founder(partner=True, taken=4, promised=4)
    assert list(one.heard(B, 4, 0, leads=False, stamp=3, echo=one.stamp)) == [Lead(5)]


def test_a_standby_takes_over_when_the_leader_is_silent_and_somebody_comes() -> None:
    one = standby(promised=4)
    assert list(one.heard(A, 4, 4, leads=True)) == []
    assert list(one.called(4)) == [], "the leader is heard"
    assert list(one.heard(A, 4, 4, leads=True)) == []
    assert list(one.silent()) == [], "nobody has come since"
    assert list(one.called(4)) == [Lead(5 << 20 | B)]
    assert one.leading and list(one.called(4)) == []


class TestStandingStill:
    """What a leader does that finds that its process did nothing for long."""

    def leader(self) -> Leadership:
        one = founder(partner=True, taken=4, promised=4)
        assert list(one.heard(B, 4, 0, leads=False)) == [Lead(5)]
        return one

    def test_it_leads_no_more_until_it_hears_its_partner(self) -> None:
        one = self.leader()
        assert list(one.stood_still()) == [StepDown(5)]
        assert one.passed_over and not one.leading
        assert list(one.heard(B, 5, 0, leads=False)) == [Lead(6)], "the partner did not take over"
        assert not one.passed_over

    def test_what_its_partner_said_before_does_not_count(self) -> None:
        one = self.leader()
        before = one.stamp
        assert list(one.stood_still()) == [StepDown(5)]
        assert list(one.heard(B, 5, 0, leads=False, stamp=3, echo=before)) == []
        assert one.passed_over and not one.leading
        assert list(one.heard(B, 5, 0, leads=False, stamp=3, echo=one.stamp)) == [Lead(6)]

    def test_it_follows_a_partner_that_took_over(self) -> None:
        one, theirs = self.leader(), 6 << 20 | B
        assert list(one.stood_still()) == [StepDown(5)]
        assert list(one.heard(B, theirs, theirs, leads=True)) == [Promise(theirs)]
        assert not one.leading

    def test_where_the_partner_is_silent_it_leads_once_it_is_needed(self) -> None:
        one = self.leader()
        assert list(one.stood_still()) == [StepDown(5)]
        assert list(one.silent()) == [], "the partner may lead, and be out of reach"
        assert list(one.called(5)) == [Lead(6)]

    def test_alone_it_goes_on(self) -> None:
        """Nobody else can have taken over."""
        one = self.leader()
        assert list(one.silent()) == []
        assert list(one.stood_still()) == [] and one.leading
        other = founder(partner=False)
        assert list(other.start()) == [Lead(1)]
        assert list(other.stood_still()) == [] and other.leading


def test_who_came_just_before_the_silence_counts() -> None:
    one = standby(promised=4)
    assert list(one.called(4)) == []
    assert list(one.silent()) == [Lead(5 << 20 | B)]


def test_without_everything_that_the_leader_had_it_never_leads() -> None:
    one = standby(able=False, promised=4)
    assert [*one.silent(), *one.called(4), *one.heard(A, 4, 0, leads=False)] == []


def test_a_leader_that_hears_of_a_higher_term_steps_down() -> None:
    one = founder(partner=False)
    list(one.start())
    theirs = 2 << 20 | B
    assert list(one.heard(B, theirs, theirs, leads=True)) == [Promise(theirs), StepDown(theirs)]
    assert not one.leading


def test_alone_it_leads_again_above_a_term_that_somebody_remembers() -> None:
    """Its directory was restored from an old copy."""
    one = founder(partner=False)
    list(one.start())
    assert list(one.called(8)) == [Promise(8), StepDown(8), Lead(9)]


def test_a_term_that_cannot_be_is_not_promised() -> None:
    one = founder(partner=False)
    assert list(one.start()) == [Lead(1)]
    assert list(one.called(NO_TERM_FROM)) == [] and one.leading
