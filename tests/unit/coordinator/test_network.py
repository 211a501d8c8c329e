"""What is planned with: figures once all are in, no noise, drift when it is confirmed, the slowest for the unknown."""

from __future__ import annotations

import math

import pytest

from stageline_coordinator.network import BROKEN, Ends, Link, LinkBook, drifted

MB = 1e6
AB, BA = ("agent:a", "agent:b"), ("agent:b", "agent:a")
FAST = Link(100 * MB, 0.001)


def book(**links: Link) -> LinkBook:
    """`a_b`: from node a to node b; g is a gateway."""
    found: dict[Ends, Link] = {}
    for name, link in links.items():
        source, target = (f"{'gateway' if one in 'gh' else 'agent'}:{one}" for one in name.split("_"))
        found[source, target] = link
    return LinkBook(found)


def test_first_figures_wait_for_each_other() -> None:
    made = LinkBook({})
    assert made.learn(AB, FAST) and made.learn(BA, FAST)
    assert made.latest == {AB: FAST, BA: FAST} and not made.planned
    assert made.settle(complete=False) == {} and made.version == 0
    assert made.settle(complete=True) == {AB: (None, FAST), BA: (None, FAST)}
    assert made.planned == {AB: FAST, BA: FAST} and made.version == 1
    assert made.settle(complete=True) == {} and made.version == 1


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (Link(80 * MB, 0.001), False),
        (Link(140 * MB, 0.001), False),
        (Link(60 * MB, 0.001), True),
        (Link(160 * MB, 0.001), True),
        (Link(100 * MB, 0.003), True),
        (Link(100 * MB, 0.0012), False),
        (BROKEN, True),
    ],
)
def test_a_link_has_drifted_by_a_factor(link: Link, expected: bool) -> None:
    assert drifted(FAST, link) is expected and drifted(link, FAST) is expected


def test_differences_that_cost_nothing_are_no_drift() -> None:
    assert not drifted(Link(8e9, 5e-5), Link(4e9, 2e-4))
    assert not drifted(BROKEN, BROKEN)


def test_a_drift_counts_when_a_second_measurement_confirms_it() -> None:
    made = book(a_b=FAST)
    slow, slower = Link(50 * MB, 0.001), Link(40 * MB, 0.001)
    assert not made.learn(AB, slow) and made.settle(complete=True) == {}
    assert made.learn(AB, FAST)
    assert not made.learn(AB, slow) and made.settle(complete=True) == {}
    assert made.planned[AB] == FAST
    assert made.learn(AB, slower) and made.settle(complete=False) == {AB: (FAST, slower)}
    assert made.planned[AB] == slower and made.version == 1


def test_what_something_else_showed_needs_one_measurement_and_may_have_to_wait() -> None:
    made = book(a_b=FAST)
    slow = Link(50 * MB, 0.001)
    assert made.learn(AB, slow, confirms=True) and made.settle(complete=True, drifts=False) == {}
    assert made.settle(complete=False) == {AB: (FAST, slow)}
    assert made.learn(AB, slow, confirms=True) and made.settle(complete=True) == {}, "nothing new"


def test_a_broken_link_counts_at_once_and_its_repair_when_confirmed() -> None:
    made = book(a_b=FAST)
    assert made.break_off(AB) and made.planned[AB] == BROKEN and made.version == 1
    assert not made.break_off(AB) and made.version == 1
    made.learn(AB, FAST)
    assert made.learn(AB, FAST) and made.settle(complete=True) == {AB: (BROKEN, FAST)}


def test_a_view_has_the_order_of_the_nodes_and_nothing_between_a_node_and_itself() -> None:
    made = book(a_b=Link(1 * MB, 0.1), b_a=Link(2 * MB, 0.2), g_a=Link(3 * MB, 0.3), g_b=FAST, a_g=FAST, b_g=FAST)
    links = made.view(["agent:b", "agent:a"], ["gateway:g"]).links
    assert links is not None
    assert links.bandwidth_bytes_per_s == ((math.inf, 2 * MB), (1 * MB, math.inf))
    assert links.latency_s == ((0.0, 0.2), (0.1, 0.0))
    ingress = made.view(["agent:b", "agent:a"], ["gateway:g"]).ingress
    assert ingress is not None and ingress.bandwidth_bytes_per_s == (100 * MB, 3 * MB)
    assert ingress.latency_s == (0.001, 0.3)


def test_an_unknown_link_counts_as_the_slowest_known_that_works() -> None:
    made = book(a_b=Link(5 * MB, 0.1), b_a=Link(9 * MB, 0.3), a_c=BROKEN)
    links = made.view([f"agent:{name}" for name in "abc"], []).links
    assert links is not None
    assert links.bandwidth_bytes_per_s[2][:2] == (5 * MB, 5 * MB) and links.latency_s[1][2] == 0.3
    assert links.bandwidth_bytes_per_s[0][2] == 0.0


def test_where_nothing_is_known_all_is_free_but_what_is_broken_stays_broken() -> None:
    empty = LinkBook({}).view(["agent:a", "agent:b"], ["gateway:g"])
    assert (empty.links, empty.ingress, empty.egress) == (None, None, None)
    links = book(a_b=BROKEN, b_a=BROKEN).view(["agent:a", "agent:b"], []).links
    assert links is not None and links.bandwidth_bytes_per_s[0][1] == 0.0


def test_of_several_gateways_the_slowest_counts() -> None:
    made = book(g_a=Link(9 * MB, 0.1), h_a=Link(4 * MB, 0.05), a_g=Link(1 * MB, 0.2), a_h=FAST)
    found = made.view(["agent:a"], ["gateway:g", "gateway:h"])
    assert found.ingress is not None and found.egress is not None
    assert (found.ingress.bandwidth_bytes_per_s, found.ingress.latency_s) == ((4 * MB,), (0.1,))
    assert found.egress.bandwidth_bytes_per_s == (1 * MB,)
    assert made.view(["agent:a"], []).ingress is None


def test_who_is_forgotten_leaves_nothing() -> None:
    made = book(a_b=FAST, b_a=FAST, b_c=FAST)
    made.forget("agent:a")
    assert made.planned == {("agent:b", "agent:c"): FAST} == made.latest
