from __future__ import annotations

from stageline.messages import BlockTime, Measure, Measured, Profiled, ProfileRequest
from stageline_stage.profiling import Profiling

MODEL = "a" * 64
REQUEST = ProfileRequest(manifest=MODEL, blocks=(2, 5), batches=(1, 4))
GRAPHS = {2: "g2", 5: "g5"}


def measured(block: int, error: str = "") -> Measured:
    times = () if error else (BlockTime(block=block, batch=1, seconds=0.1),)
    return Measured(manifest=MODEL, block=block, times=times, error=error)


def begun() -> Profiling:
    profiling = Profiling()
    assert profiling.request(REQUEST)
    profiling.fetched(REQUEST, "m", GRAPHS, "f")
    return profiling


def test_blocks_are_measured_one_after_the_other_then_answered() -> None:
    profiling = Profiling()
    profiling.request(REQUEST)
    assert profiling.fetched(REQUEST, "m", GRAPHS, "f") == [
        Measure(manifest=MODEL, manifest_path="m", block=2, graph="g2", batches=(1, 4))
    ]
    (second,) = profiling.measured(measured(2), "f")
    assert isinstance(second, Measure) and second.block == 5
    (answer,) = profiling.measured(measured(5), "f")
    assert isinstance(answer, Profiled) and answer.error == "" and answer.fingerprint == "f"
    assert [t.block for t in answer.times] == [2, 5]


def test_the_same_question_is_asked_once_until_it_is_answered() -> None:
    profiling = begun()
    assert not profiling.request(REQUEST)
    profiling.failed(REQUEST, "gone", "f")
    assert profiling.request(REQUEST)


def test_a_block_that_fails_leaves_the_others_times() -> None:
    profiling = begun()
    profiling.measured(measured(2, "cannot run"), "f")
    (answer,) = profiling.measured(measured(5), "f")
    assert isinstance(answer, Profiled)
    assert answer.error == "cannot run" and [t.block for t in answer.times] == [5]


def test_a_dead_executor_answers_with_what_was_measured() -> None:
    profiling = begun()
    profiling.measured(measured(2), "f")
    (answer,) = profiling.executor_down("f")
    assert isinstance(answer, Profiled)
    assert "block 5" in answer.error and [t.block for t in answer.times] == [2]
    assert profiling.measured(measured(5), "f") == []


def test_stale_and_foreign_answers_are_ignored() -> None:
    profiling = begun()
    assert profiling.measured(measured(5), "f") == []
    assert profiling.measured(Measured(manifest="b" * 64, block=2), "f") == []


def test_a_question_about_nothing_is_answered_at_once() -> None:
    profiling, empty = Profiling(), ProfileRequest(manifest=MODEL, blocks=())
    profiling.request(empty)
    assert profiling.fetched(empty, "m", {}, "f") == [Profiled(manifest=MODEL, fingerprint="f")]
