"""Which coordinator a service talks to, and the terms by which old leaders are told from new ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline.coordinators import ID_BITS, NO_TERM_FROM, Coordinators, next_term, number_of, read_addresses
from stageline.errors import ConfigError

IDS = st.integers(1, (1 << ID_BITS) - 1)


def test_a_founder_that_never_heard_of_another_counts_from_one() -> None:
    terms = [0]
    for _ in range(3):
        terms.append(next_term(terms[-1], 77, founder=True))
    assert terms == [0, 1, 2, 3]
    assert [number_of(term) for term in terms] == terms


def test_numbers_go_on_when_another_takes_over() -> None:
    taken = next_term(3, 5, founder=False)
    back = next_term(taken, 77, founder=True)
    assert [number_of(term) for term in (taken, back)] == [4, 5]
    assert 3 < taken < back < NO_TERM_FROM


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30), IDS, IDS)
def test_no_term_is_taken_by_two(turns: list[tuple[bool, bool]], founder: int, other: int) -> None:
    """Each turn: who takes a term, and whether the other hears of it."""
    if founder == other:
        return
    seen, ids, takers = [0, 0], (founder, other), dict[int, int]()
    for second, heard in turns:
        who = int(second)
        seen[who] = next_term(seen[who], ids[who], founder=who == 0)
        assert takers.setdefault(seen[who], who) == who
        seen[1 - who] = max(seen) if heard else seen[1 - who]


def test_addresses_are_tried_in_turn() -> None:
    three = Coordinators(read_addresses("tcp://a:1, tcp://b:1,tcp://c:1,"))
    seen = [three.current]
    for _ in range(3):
        three.go_on()
        seen.append(three.current)
    assert seen == ["tcp://a:1", "tcp://b:1", "tcp://c:1", "tcp://a:1"]
    one = Coordinators(["tcp://a:1"])
    one.go_on()
    assert (one.current, one.several, one.redirected("tcp://b:1"), one.redirected("")) == (
        "tcp://a:1",
        False,
        False,
        False,
    )


def test_a_standby_names_the_leader() -> None:
    two = Coordinators(["tcp://a:1", "tcp://b:1"])
    assert two.redirected("tcp://b:1") and two.current == "tcp://b:1"
    assert not two.redirected("tcp://b:1"), "it is asked again"
    assert not two.redirected(""), "it does not know: perhaps it takes over"
    assert two.redirected("tcp://elsewhere:1") and two.current == "tcp://a:1"


def test_a_leader_of_the_past_is_not_listened_to() -> None:
    two = Coordinators(["tcp://a:1", "tcp://b:1"])
    assert two.welcomed("c", 5) and two.welcomed("c", 5) and two.term == 5
    assert not two.welcomed("c", 4) and two.term == 5
    assert not two.welcomed("c", NO_TERM_FROM), "it would fence off every other for ever"
    assert two.welcomed("c", 6)
    assert two.welcomed("another", 1) and two.term == 1


@pytest.mark.parametrize("text", ["", ",", "a:1", "tcp://a:1,b:1"])
def test_odd_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must look like tcp://"):
        read_addresses(text)
