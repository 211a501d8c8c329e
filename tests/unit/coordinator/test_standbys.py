"""Where standbys go: every stage covered as far as memory allows, best for what is left after a death."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from stageline_coordinator.placement import Slot
from stageline_coordinator.standbys import Question, Spot, choose
from stageline_coordinator.wanted import Barred

INF = float("inf")


def problem(speeds: Mapping[str, Sequence[float | None]], blocks: int, links: Any = None) -> dict[str, Any]:
    """One model `m`; `speeds`: seconds of each block by node."""
    found: dict[str, Any] = {
        "nodes": [{"id": node} for node in speeds],
        "models": [
            {
                "name": "m",
                "blocks": [{"seconds": [speeds[node][block] for node in speeds]} for block in range(blocks)],
                "cuts_bytes": [100] * (blocks + 1),
                "codecs": [],
            }
        ],
    }
    if links is not None:
        found["links"] = {"bandwidth_bytes_per_s": links}
    return found


def question(
    nodes: Sequence[str], free: Mapping[str, int], sizes: Sequence[int] | None = None, **more: Any
) -> Question:
    """A stage of one block for each of `nodes`, in order; all of `free` (or `speeds`) are there."""
    speeds = more.pop("speeds", {node: [1.0] * len(nodes) for node in free})
    links = more.pop("links", None)
    placement = {"m": tuple(Slot(i, i + 1, (node,)) for i, node in enumerate(nodes))}
    charged = {("m", i): size for i, size in enumerate(sizes or [1] * len(nodes))}
    return Question(problem(speeds, len(nodes), links), placement, charged, free, **more)


def spot(number: int) -> Spot:
    return ("m", number)


def test_each_stage_gets_one_on_another_node() -> None:
    found = choose(question("abc", {"a": 1, "b": 1, "c": 1}), 1)
    assert not found.short
    for number, host in enumerate("abc"):
        (standby,) = found.nodes[spot(number)]
        assert standby != host
    assert len({found.nodes[spot(n)] for n in range(3)}) == 3, "there is room for one on each"


def test_none_is_asked_for_and_none_is_chosen() -> None:
    found = choose(question("ab", {"a": 9, "b": 9}), 0)
    assert set(found.nodes.values()) == {()} and not found.short


def test_what_is_covered_already_by_replicas_needs_none() -> None:
    placement = {"m": (Slot(0, 1, ("a", "b")), Slot(1, 2, ("c",)))}
    speeds = {node: [1.0, 1.0] for node in "abc"}
    asked = Question(problem(speeds, 2), placement, {spot(0): 1, spot(1): 1}, dict.fromkeys("abc", 9))
    found = choose(asked, 1)
    assert found.nodes[spot(0)] == () and len(found.nodes[spot(1)]) == 1
    assert len(choose(asked, 2).nodes[spot(0)]) == 1


def test_two_deaths_take_two_on_different_nodes() -> None:
    found = choose(question("abc", {"a": 9, "b": 9, "c": 9}), 2)
    assert {frozenset(found.nodes[spot(n)]) for n in range(3)} == {
        frozenset("bc"), frozenset("ac"), frozenset("ab"),
    }  # fmt: skip


def test_memory_is_never_overdrawn_and_what_is_not_covered_says_why() -> None:
    found = choose(question("ab", {"a": 5_000_000, "b": 30_000_000}, [20_000_000, 8_000_000]), 1)
    assert found.nodes == {spot(0): ("b",), spot(1): ()}
    assert found.short == {spot(1): "it takes 8.0 MB, and no other worker has more than 5.0 MB left"}


def test_a_lone_worker_cannot_be_covered() -> None:
    assert choose(question("a", {"a": 9}), 1).short == {spot(0): "there is no other worker"}


def test_workers_that_are_there_but_not_usable_are_named() -> None:
    speeds = {node: [1.0] for node in "abc"}
    (why,) = choose(question("a", {"a": 9}, speeds=speeds), 1).short.values()
    assert why == "no other worker is usable: b, c are drained, about to leave, or failed lately"


def test_whom_users_keep_off_is_said_with_how_to_take_it_back() -> None:
    speeds: dict[str, list[float | None]] = {"a": [1.0], "b": [None], "c": [None]}
    free = {"a": 9, "b": 9, "c": 9}
    both = {spot(0): Barred("m", ("b",), ("c",))}
    (why,) = choose(question("a", free, speeds=speeds, unwanted=both), 1).short.values()
    assert why.startswith("model m is forbidden on b: `stageline models set m --unset forbid`")
    assert "; c is cordoned: `stageline nodes uncordon`" in why
    everyone = {spot(0): Barred("m", ("a", "b", "c"))}
    (why,) = choose(question("a", free, speeds=speeds, unwanted=everyone), 1).short.values()
    assert why.startswith("model m is forbidden on every other worker (b, c): ")
    one = {spot(0): Barred("m", ("b",))}
    (why,) = choose(question("a", free, speeds=speeds, unwanted=one), 1).short.values()
    assert why.startswith(
        "no other worker can run its blocks, or be reached by their neighbours; model m is forbidden on b"
    )


def test_a_node_that_cannot_run_the_stage_or_is_not_reached_is_none() -> None:
    why = {spot(0): "no other worker can run its blocks, or be reached by their neighbours"}
    speeds = {"a": [1.0, 1.0], "b": [None, 1.0], "c": [1.0, 1.0]}
    cut = [[None, 1e9, 1e9], [1e9, None, 0], [1e9, 0, None]]
    found = choose(question("ab", {"a": 9, "b": 9, "c": 9}, speeds=speeds, links=cut), 1)
    assert found.short == why and found.nodes[spot(1)] == ("c",)


def test_the_bottleneck_after_the_death_decides() -> None:
    speeds = {"a": [1.0, 1.0], "b": [1.0, 1.0], "slow": [5.0, 5.0], "fast": [1.0, 1.0]}
    found = choose(question("ab", {"slow": 9, "fast": 9}, speeds=speeds), 1)
    assert found.nodes == {spot(0): ("fast",), spot(1): ("fast",)}


def test_of_equals_the_one_that_has_it_loaded_stays() -> None:
    free = {"c": 9, "d": 9}
    loaded = frozenset({("d", spot(0)), ("d", spot(1))})
    speeds = {node: [1.0, 1.0] for node in "abcd"}
    found = choose(question("ab", free, speeds=speeds, loaded=loaded), 1)
    assert found.nodes == {spot(0): ("d",), spot(1): ("d",)}


def test_one_that_failed_to_load_it_is_not_asked_again_for_now() -> None:
    barred = frozenset({("c", spot(0))})
    speeds = {node: [1.0] for node in "acd"}
    assert choose(question("a", {"c": 9, "d": 9}, speeds=speeds, barred=barred), 1).nodes == {spot(0): ("d",)}
    speeds = {node: [1.0] for node in "ac"}
    found = choose(question("a", {"c": 9}, speeds=speeds, barred=barred), 1)
    assert found.short == {spot(0): "c failed to load it"}


def test_another_machine_is_preferred() -> None:
    hosts = {"a": "x", "b": "x", "c": "y"}
    speeds = {"a": [1.0], "b": [1.0], "c": [3.0]}
    assert choose(question("a", {"b": 9, "c": 9}, speeds=speeds, hosts=hosts), 1).nodes == {spot(0): ("c",)}


def test_as_many_are_covered_as_can_be() -> None:
    """Against every assignment there is, on small random clusters."""
    dice = random.Random(5)
    for _ in range(200):
        stages, others = dice.randint(1, 4), dice.randint(0, 2)
        names = [f"n{i}" for i in range(stages + others)]
        free = {name: dice.randint(0, 6) for name in names}
        sizes = [dice.randint(1, 4) for _ in range(stages)]
        found = choose(question(names[:stages], free, sizes), 1)
        used = dict.fromkeys(names, 0)
        for (_, number), nodes in found.nodes.items():
            for node in nodes:
                assert node != names[number]
                used[node] += sizes[number]
        assert all(used[name] <= free[name] for name in names)
        covered = sum(bool(nodes) for nodes in found.nodes.values())
        assert covered == _most(names, free, sizes)
        assert len(found.short) == stages - covered


def _most(names: Sequence[str], free: Mapping[str, int], sizes: Sequence[int]) -> int:
    best = 0
    for choice in itertools.product([None, *names], repeat=len(sizes)):
        used = dict.fromkeys(names, 0)
        for number, node in enumerate(choice):
            if node is not None:
                used[node] += sizes[number] if node != names[number] else 1000
        if all(used[name] <= free[name] for name in names):
            best = max(best, sum(node is not None for node in choice))
    return best
