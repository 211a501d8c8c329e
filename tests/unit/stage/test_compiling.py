"""The thread that puts compiled stages in the place of torch's, with a backend and a child made up for it."""

from __future__ import annotations

import os
import queue
import select
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stageline.blocks import BlockSpec, DimRange, ValueSpec
from stageline.manifest import ModelManifest, canonical_json
from stageline.messages import Backed, Load
from stageline.plan import StageKey
from stageline_stage.backends import workshop
from stageline_stage.backends.artifacts import Report
from stageline_stage.backends.job import Failed, Interrupted, Job
from stageline_stage.executor import compiling
from stageline_stage.executor.compiling import Compiling, Wish
from stageline_stage.executor.guarded import TRIALS
from stageline_stage.executor.stages import LoadedStage

KEY = StageKey(manifest="a" * 64, start=0, end=1)
VALUE = ValueSpec("x", "float32", ("batch", 2))
X = torch.ones(3, 2)
PATIENCE_S = 60.0


class Doubling:
    """Its artifact holds the number that is added to 2x, which is right."""

    name = "doubling"
    precisions = ("f32",)
    dynamic = True
    needs_torch = False

    def __init__(self, error: float = 0.0) -> None:
        self.error = error
        self.loads = 0

    def available(self) -> str:
        return ""

    def prepare(self) -> None:
        pass

    def version(self) -> str:
        return "1"

    def compile(self, source: Any, precision: str, folder: Path) -> None:
        raise AssertionError("children do that")

    def load(self, folder: Path, outputs: Sequence[ValueSpec], precision: str, threads: int) -> Callable[..., Any]:
        self.loads += 1
        assert (folder / "stage.bin").read_bytes() == b"compiled"
        return lambda x: [2 * x + self.error]


class Bench:
    """A `Compiling` under test: `children` are the jobs that it had done, `answer` is what comes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: queue.SimpleQueue[Backed] = queue.SimpleQueue()
        self.children: list[Job] = []
        self.answer: Report | Failed | None = Report("doubling", "f32", eager_s=2.0, seconds=1.0)
        self.made: list[Compiling] = []
        block = BlockSpec("b", "b" * 64, 2, (), (VALUE,), (VALUE,), 1, 1)
        manifest = ModelManifest("m", (VALUE,), (VALUE,), (block,), {"batch": DimRange(1, 8, 1)})
        self.file = folder / "manifest"
        self.file.write_bytes(canonical_json(manifest.to_json()))

    def run(self, job: Job, wake: int) -> Report | Failed:
        self.children.append(job)
        if self.answer is None:  # a child that takes for ever
            assert select.select([wake], [], [], PATIENCE_S)[0]
            raise Interrupted
        (Path(job.folder) / "stage.bin").write_bytes(b"compiled")
        return self.answer

    def start(self, *backends: Doubling, wish: str = "doubling", crashed: int = 0, again: bool = False) -> Compiling:
        settings = Wish(wish, 1, self.folder / "compiled", 1 << 30, crashed, again)
        self.made.append(Compiling(settings, backends, self.said.put, Log()))  # type: ignore[arg-type]
        return self.made[-1]

    def load(self, compiler: Compiling, key: StageKey = KEY) -> LoadedStage:
        stage = LoadedStage(lambda x: [2 * x])
        compiler.loaded(Load(stage=key, graphs=("b" * 64,), tensors={}, manifest=str(self.file)), stage)
        return stage

    def heard(self) -> Backed:
        return self.said.get(timeout=PATIENCE_S)


class Log:
    def exception(self, event: str, **values: Any) -> None:
        raise AssertionError(event)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path)
    monkeypatch.setattr(workshop, "run", made.run)
    for module in (compiling, workshop):
        monkeypatch.setattr(module, "available_bytes", lambda: 1 << 40)
    yield made
    for compiler in made.made:
        compiler.close()


def test_a_compiled_stage_takes_over_and_is_found_again_after_a_restart(bench: Bench) -> None:
    backend = Doubling()
    first = bench.start(backend)
    stage = bench.load(first)
    said = bench.heard()
    assert (said.stage, said.backend, said.lost, said.eager_s, said.seconds) == (KEY, "doubling", False, 2.0, 1.0)
    for _ in range(TRIALS + 1):
        assert torch.equal(stage.call(X)[0], 2 * X)
    first.close()
    bench.load(bench.start(backend))
    assert bench.heard().backend == "doubling"
    assert (len(bench.children), backend.loads) == (1, 2)


def test_a_stage_that_is_loaded_twice_is_compiled_once(bench: Bench) -> None:
    backend = Doubling()
    compiler = bench.start(backend)
    bench.load(compiler)
    assert bench.heard().backend == "doubling"
    bench.load(compiler)
    other = StageKey(manifest="c" * 64, start=0, end=1)
    bench.load(compiler, other)
    assert bench.heard().stage == other and backend.loads == 2


def test_without_backends_there_is_nothing(bench: Bench) -> None:
    compiler = bench.start(wish="eager")
    stage = bench.load(compiler)
    call = stage.call
    compiler.unloaded(KEY)
    compiler.close()
    assert stage.call is call and bench.said.empty() and not (bench.folder / "compiled").exists()


def test_the_choice_is_the_faster_one_unless_it_was_made(bench: Bench) -> None:
    bench.answer = Report("doubling", "f32", eager_s=1.0, seconds=1.0)
    stage = bench.load(bench.start(Doubling(), wish="auto"))
    said = bench.heard()
    assert (said.backend, said.lost, said.reason) == ("eager", False, "doubling is not faster")
    assert torch.equal(stage.call(X)[0], 2 * X)
    bench.made[0].close()
    bench.load(bench.start(Doubling()))
    assert bench.heard().backend == "doubling"


def test_what_failed_is_not_tried_again_until_asked(bench: Bench) -> None:
    bench.answer = Failed("no such operator")
    bench.load(bench.start(Doubling()))
    said = bench.heard()
    assert (said.backend, said.lost, said.reason) == ("eager", True, "doubling: no such operator")
    bench.made[0].close()
    bench.load(bench.start(Doubling()))
    assert "tried before" in bench.heard().reason and len(bench.children) == 1
    bench.made[1].close()
    bench.answer = Report("doubling", "f32", eager_s=2.0, seconds=1.0)
    bench.load(bench.start(Doubling(), again=True))
    assert bench.heard().backend == "doubling" and len(bench.children) == 2


def test_what_failed_by_chance_is_tried_at_the_next_load(bench: Bench) -> None:
    bench.answer = Failed("the compiler ended by signal 9", lasting=False)
    compiler = bench.start(Doubling())
    bench.load(compiler)
    assert bench.heard().lost
    bench.answer = Report("doubling", "f32", eager_s=2.0, seconds=1.0)
    bench.load(compiler)
    assert bench.heard().backend == "doubling"


def test_one_that_is_wrong_on_a_real_batch_is_given_up_for_good(bench: Bench) -> None:
    compiler = bench.start(Doubling(error=0.1))
    stage = bench.load(compiler)
    assert bench.heard().backend == "doubling"
    eager = stage.call(X)
    assert torch.equal(eager[0], 2 * X)
    said = bench.heard()
    assert (said.backend, said.lost) == ("eager", True) and "out of tolerance" in said.reason
    compiler.close()
    bench.load(bench.start(Doubling()))
    assert "out of tolerance" in bench.heard().reason and len(bench.children) == 1


def test_one_that_cannot_be_loaded_is_not_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Doubling()
    monkeypatch.setattr(backend, "load", lambda *_: [][0])
    compiler = bench.start(backend)
    stage = bench.load(compiler)
    assert "cannot be loaded (IndexError)" in bench.heard().reason
    assert torch.equal(stage.call(X)[0], 2 * X)
    bench.load(compiler)
    assert "tried before" in bench.heard().reason and len(bench.children) == 1


def test_one_that_crashed_the_executor_is_not_run_again(bench: Bench) -> None:
    bench.load(bench.start(Doubling()))
    assert bench.heard().backend == "doubling"
    bench.load(bench.start(Doubling(), crashed=os.getpid()))  # the first one has not said that it stopped using it
    said = bench.heard()
    assert (said.backend, said.lost) == ("eager", True) and "crashed" in said.reason


def test_a_stage_that_is_unloaded_meanwhile_ends_its_child(bench: Bench) -> None:
    bench.answer = None
    compiler = bench.start(Doubling())
    stage = bench.load(compiler)
    call = stage.call
    compiler.unloaded(KEY)
    compiler.close()
    assert stage.call is call and bench.said.empty()
    assert not list((bench.folder / "compiled").glob("new-*"))


def test_a_stage_is_not_compiled_where_memory_or_disk_are_short(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = bench.start(Doubling())
    monkeypatch.setattr(workshop, "available_bytes", lambda: 1 << 20)
    bench.load(compiler)
    assert "too little memory" in bench.heard().reason
    monkeypatch.setattr(workshop, "available_bytes", lambda: 1 << 40)
    monkeypatch.setattr(workshop, "DISK_BYTES", 1 << 60)
    bench.load(compiler)
    assert "too little room" in bench.heard().reason
    assert not bench.children
