"""What two stores copy of each other makes them equal, in whatever order and however often it comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import FakeAgent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stageline.messages import StoreRow
from stageline.plan import Plan
from stageline.wishes import Wishes
from stageline_coordinator.figures import Figure, FigureKey
from stageline_coordinator.journal import manifest_of
from stageline_coordinator.network import Link
from stageline_coordinator.store import Store

SHAS = [f"{i:064x}" for i in range(4)]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    with Store(tmp_path / "a") as a, Store(tmp_path / "b", founding=False) as b:
        b.join(a.cluster)
        yield a, b


def copy(source: Store, target: Store, since: int = 0) -> list[StoreRow]:
    rows, upto = source.journal.since(since)
    return target.merge(rows, source.remembered().coordinator, upto)


def content(store: Store) -> tuple[object, ...]:
    wanted = store.objective(), store.wishes()
    return (store.models(), store.profiles(), store.links(), store.plan(), store.nodes(), *wanted)


def test_a_fresh_store_gets_everything(two: tuple[Store, Store]) -> None:
    a, b = two
    a.begin_term()
    a.put_model("m", SHAS[0])
    a.put_model("n", SHAS[1])
    a.put_model("m", SHAS[2])
    a.put_profile(FigureKey("g", "f|1", 4), Figure(0.5, 10, 0.1))
    a.put_links({("agent:x", "gateway:g"): Link(1e6, 0.1)})
    a.put_node(FakeAgent("x").hello())
    a.put_plan(Plan(term=1, version=3))
    a.put_objective("latency")
    a.put_wishes("m", Wishes(forbidden=("x",)))
    rows = copy(a, b)
    assert [manifest_of(row) for row in rows if row.kind == "model"] == [SHAS[1], SHAS[2]]
    assert content(a) == content(b)
    assert list(b.models()) == ["m", "n"]
    assert copy(a, b) == [], "once is enough"
    assert b.applied(a.remembered().coordinator) == a.journal.last


def test_what_is_removed_is_removed_there_too_and_stays_so(two: tuple[Store, Store]) -> None:
    a, b = two
    a.begin_term()
    a.put_model("m", SHAS[0])
    old, _ = a.journal.since(0)
    a.put_node(FakeAgent("x").hello())
    a.put_links({("agent:x", "gateway:g"): Link(1e6, 0.1)})
    a.put_wishes("m", Wishes(priority=2.0))
    copy(a, b)
    assert b.wishes() == {"m": Wishes(priority=2.0)}
    a.remove_model("m")
    a.forget_node("x")
    copy(a, b)
    assert content(b) == content(a) == ({}, {}, {}, None, (), "throughput", {})
    assert b.merge(old, 1, 0) == [], "an old row does not come back"


def test_only_what_changed_since_is_sent(two: tuple[Store, Store]) -> None:
    a, _ = two
    a.put_model("m", SHAS[0])
    seen = a.journal.last
    a.put_model("n", SHAS[1])
    assert [row.key for row in a.journal.since(seen)[0]] == ["n"]


def test_a_merge_is_all_or_nothing(two: tuple[Store, Store]) -> None:
    a, b = two
    a.put_model("m", SHAS[0])
    (row,), _ = a.journal.since(0)
    broken = StoreRow(kind="plan", key="0", term=9, number=1, body=b"\xc1")
    with pytest.raises(Exception, match="database holds what it cannot read"):
        b.merge([row, broken], 1, 5)
    assert (b.models(), b.applied(1)) == ({}, 0)
    b.put_model("n", SHAS[1])
    assert b.models() == {"n": SHAS[1]}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "term", "copy", "copy old"]),
        st.booleans(),
        st.sampled_from("mn"),
        st.sampled_from(SHAS),
    ),
    max_size=15,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_both_end_up_with_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bool, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("stores")
    with Store(folder / "a") as a, Store(folder / "b", founding=False) as b:
        b.join(a.cluster)
        a.begin_term()
        b.begin_term()
        old: list[StoreRow] = []
        for what, second, name, sha in steps:
            store, other = (b, a) if second else (a, b)
            if what == "put":
                store.put_model(name, sha)
            elif what == "remove":
                store.remove_model(name)
            elif what == "term":
                store.begin_term()
            elif what == "copy":
                old += store.journal.since(0)[0]
                copy(store, other)
            else:
                store.merge(reversed(old), 1, 0)
        copy(a, b)
        copy(b, a)
        assert content(a) == content(b)
