from __future__ import annotations

from stageline.messages import Load, Prepare, Prepared, PrepareFailed, Retire, Unload
from stageline.plan import StageKey
from stageline_stage.loading import Answer, Fetch, Loading, Pin, StageFiles, ToExecutor

A, B, C = (StageKey(manifest="a" * 64, start=i, end=i + 1) for i in range(3))


def files(stage: StageKey, nbytes: int = 10) -> StageFiles:
    sha = f"{stage.start}" * 64
    return StageFiles(stage, ("graph",), {sha: "tensor"}, {sha: nbytes}, frozenset({sha}))


def prepare(version: int, *stages: StageKey, term: int = 1) -> Prepare:
    return Prepare(term=term, version=version, stages=stages)


def ready(*stages: StageKey) -> Loading:
    loading = Loading()
    loading.executor_up("e1")
    loading.prepare(prepare(1, *stages))
    loading.fetched((1, 1), [files(stage) for stage in stages])
    for stage in stages:
        loading.stage_loaded(stage)
    return loading


def loads(steps: list[object]) -> list[StageKey]:
    return [s.message.stage for s in steps if isinstance(s, ToExecutor) and isinstance(s.message, Load)]


def unloads(steps: list[object]) -> list[StageKey]:
    return [s.message.stage for s in steps if isinstance(s, ToExecutor) and isinstance(s.message, Unload)]


def answers(steps: list[object]) -> list[object]:
    return [s.message for s in steps if isinstance(s, Answer)]


def test_prepare_fetches_loads_and_answers_in_that_order() -> None:
    loading = Loading()
    loading.executor_up("e1")
    assert loading.prepare(prepare(1, A, B)) == [Fetch((1, 1), (A, B))]
    steps = loading.fetched((1, 1), [files(A), files(B)])
    assert loads(list(steps)) == [A, B] and isinstance(steps[0], Pin)
    assert loading.stage_loaded(A) == []
    assert answers(list(loading.stage_loaded(B))) == [
        Prepared(term=1, version=1, stages=(A, B), executors=("e1", "e1"))
    ]


def test_what_is_loaded_is_answered_at_once() -> None:
    steps = ready(A, B).prepare(prepare(2, B))
    assert answers(list(steps)) == [Prepared(term=1, version=2, stages=(B,), executors=("e1",))]


def test_only_what_is_missing_is_fetched() -> None:
    assert ready(A).prepare(prepare(2, A, C)) == [Fetch((1, 2), (C,))]


def test_a_newer_prepare_replaces_an_older_one() -> None:
    loading = ready(A)
    loading.prepare(prepare(2, B))
    loading.prepare(prepare(3, C))
    assert loading.fetched((1, 2), [files(B)]) == []
    loading.fetched((1, 3), [files(C)])
    assert answers(list(loading.stage_loaded(C)))[0].version == 3


def test_an_older_prepare_is_ignored() -> None:
    loading = ready(A)
    loading.prepare(prepare(5, A))
    assert loading.prepare(prepare(4, B)) == []
    assert loading.prepare(prepare(1, A, term=2)) != []


def test_a_new_cluster_may_count_from_one_again() -> None:
    loading = ready(A)
    loading.prepare(prepare(1, A, term=7))
    assert loading.prepare(prepare(1, A)) == []
    loading.new_cluster()
    assert answers(list(loading.prepare(prepare(1, A))))


def test_failures_are_answered_once() -> None:
    loading = Loading()
    loading.executor_up("e1")
    loading.prepare(prepare(1, A, B))
    failed = PrepareFailed(term=1, version=1, stage=A, code="store", message="the disk is full")
    assert answers(list(loading.fetch_failed((1, 1), A, "store", "the disk is full"))) == [failed]
    assert loading.load_failed(B, "manifest", "no") == []
    assert answers(list(loading.welcomed())) == [failed]


def test_a_failed_load_looks_at_the_files_again_next_time() -> None:
    loading = Loading()
    loading.executor_up("e1")
    loading.prepare(prepare(1, A))
    loading.fetched((1, 1), [files(A)])
    assert answers(list(loading.load_failed(A, "blob_corrupt", "damaged")))
    assert loading.prepare(prepare(2, A)) == [Fetch((1, 2), (A,))]


def test_retire_unloads_all_but_what_is_kept_or_being_prepared() -> None:
    loading = ready(A, B)
    loading.prepare(prepare(2, B, C))
    steps = loading.retire(Retire(term=1, version=1, keep=()))
    assert unloads(list(steps)) == [A]
    assert loading.loaded == {B}


def test_an_old_retire_is_ignored() -> None:
    loading = ready(A)
    loading.prepare(prepare(3, A))
    assert loading.retire(Retire(term=1, version=2, keep=())) == []
    assert loading.loaded == {A}


def test_retired_stages_are_no_longer_pinned() -> None:
    (pin,) = (s for s in ready(A, B).retire(Retire(term=1, version=1, keep=(B,))) if isinstance(s, Pin))
    assert pin.blobs == {"1" * 64}


def test_a_new_executor_has_nothing_and_a_prepare_goes_on_with_it() -> None:
    loading = ready(A)
    loading.prepare(prepare(2, A, B))
    loading.fetched((1, 2), [files(B)])
    loading.executor_down()
    assert loading.loaded == set()
    assert loads(list(loading.executor_up("e2"))) == [A, B]
    loading.stage_loaded(A)
    assert answers(list(loading.stage_loaded(B)))[0].executors == ("e2", "e2")


def test_the_answer_of_a_dead_executor_is_not_repeated() -> None:
    loading = ready(A)
    assert answers(list(loading.welcomed()))
    loading.executor_down()
    assert loading.welcomed() == []


def test_a_plan_that_cannot_fit_is_refused() -> None:
    loading = Loading(room_bytes=15)
    loading.executor_up("e1")
    loading.prepare(prepare(1, A, B))
    (failed,) = answers(list(loading.fetched((1, 1), [files(A), files(B)])))
    assert isinstance(failed, PrepareFailed) and "does not fit" in failed.message


def test_shared_tensors_count_once() -> None:
    loading = Loading(room_bytes=15)
    loading.executor_up("e1")
    loading.prepare(prepare(1, A, B))
    shared = StageFiles(B, ("graph",), {"0" * 64: "tensor"}, {"0" * 64: 10}, frozenset({"0" * 64}))
    assert loads(list(loading.fetched((1, 1), [files(A), shared]))) == [A, B]
