from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stageline.blocks import BlockSpec, DimRange, Tolerance, ValueSpec
from stageline.errors import ConfigError
from stageline.manifest import ModelManifest, canonical_json
from stageline_stage.backends import job as jobs
from stageline_stage.backends import samples, table
from stageline_stage.backends.__main__ import work
from stageline_stage.backends.artifacts import REPORT, Artifacts, Report, key_of
from stageline_stage.backends.base import UnsuitableError
from stageline_stage.backends.job import Failed, Interrupted, Job
from stageline_stage.backends.judge import deviation
from stageline_stage.executor.guarded import TRIALS, Guarded
from stageline_stage.graph.codec import BlockGraph, Call, Ref, encode
from stageline_stage.graph.rebuild import join

TOLERANCE = Tolerance(rtol=1e-4, atol=1e-5)
ITEMS = torch.tensor([[100.0, 0.0], [1.0, 0.5]])


# --- judge --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "fine"),
    [
        (ITEMS.clone(), True),
        (ITEMS + torch.tensor([[0.0, 0.009], [0.0, 0.0]]), True),
        (ITEMS + torch.tensor([[0.0, 0.011], [0.0, 0.0]]), False),
        (ITEMS + torch.tensor([[0.0, 0.0], [0.0, 1e-4]]), True),
        (ITEMS + torch.tensor([[0.0, 0.0], [0.0, 2e-4]]), False),
        (ITEMS.double(), False),
        (ITEMS[None], False),
        (ITEMS.where(ITEMS > 0, math.nan), False),
        (ITEMS.where(ITEMS > 0, math.inf), False),
        (7, False),
    ],
)
def test_the_tolerance_is_measured_by_the_largest_number_of_an_item(given: Any, fine: bool) -> None:
    assert (deviation([given], [ITEMS], TOLERANCE) == "") == fine


def test_a_number_alone_and_a_score_for_each_item_are_measured_by_themselves() -> None:
    assert deviation([torch.tensor(2.0001)], [torch.tensor(2.0)], TOLERANCE) == ""
    assert deviation([torch.tensor([100.0, 1.001])], [torch.tensor([100.0, 1.0])], TOLERANCE)


def test_what_is_not_finite_has_to_be_equal() -> None:
    wanted = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    assert deviation([wanted.clone()], [wanted], TOLERANCE) == ""
    assert deviation([wanted[[0, 2, 1, 3]]], [wanted], TOLERANCE)


def test_integers_and_numbers_have_to_be_equal() -> None:
    ids = torch.tensor([1 << 40, 2])
    assert deviation([ids, 3], [ids.clone(), 3], TOLERANCE) == ""
    assert "integers" in deviation([ids + 1, 3], [ids, 3], TOLERANCE)
    assert "output 1" in deviation([ids, 4], [ids, 3], TOLERANCE)
    assert deviation([ids, True], [ids, 1], TOLERANCE), "the wire tells them apart"
    assert "1 outputs" in deviation([ids], [ids, 3], TOLERANCE)


# --- a compiled stage in use ----------------------------------------------------------------------------------


class Calls:
    """Something that computes `x + shift`, and says how often; raises what it is given."""

    def __init__(self, shift: float = 0.0, error: Exception | None = None) -> None:
        self.shift, self.error, self.count = shift, error, 0

    def __call__(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.count += 1
        if self.error is not None:
            raise self.error
        return [x + self.shift]


def guarded(compiled: Calls, eager: Calls) -> tuple[Guarded, list[str]]:
    reasons: list[str] = []
    return Guarded(compiled, eager, TOLERANCE, gave_up=reasons.append), reasons


def test_a_compiled_stage_is_believed_after_some_batches() -> None:
    compiled, eager = Calls(1e-6), Calls()
    stage, reasons = guarded(compiled, eager)
    answers = [stage(torch.ones(1))[0].item() for _ in range(TRIALS + 1)]
    assert answers[:TRIALS] == [1.0] * TRIALS and answers[TRIALS] > 1.0, "torch's outputs until it is believed"
    assert (compiled.count, eager.count, reasons) == (TRIALS + 1, TRIALS, [])


@pytest.mark.parametrize("compiled", [Calls(0.1), Calls(error=RuntimeError("no kernel"))])
def test_one_that_is_wrong_or_fails_is_left_at_once(compiled: Calls) -> None:
    compiled.count = 0
    stage, reasons = guarded(compiled, Calls())
    assert [stage(torch.ones(1))[0].item() for _ in range(3)] == [1.0] * 3
    assert compiled.count == 1 and len(reasons) == 1


def test_one_that_fails_later_costs_no_batch() -> None:
    compiled = Calls()
    stage, reasons = guarded(compiled, Calls())
    for _ in range(TRIALS):
        stage(torch.ones(1))
    compiled.error = ValueError("bad shape")
    assert [stage(torch.ones(1))[0].item() for _ in range(2)] == [1.0] * 2
    assert compiled.count == TRIALS + 1 and reasons == ["it failed in a batch (ValueError)"]


def test_an_input_that_torch_cannot_compute_either_is_not_its_fault() -> None:
    compiled, eager = Calls(), Calls()
    stage, reasons = guarded(compiled, eager)
    for _ in range(TRIALS):
        stage(torch.ones(1))
    compiled.error = eager.error = ValueError("bad input")
    with pytest.raises(ValueError, match="bad input"):
        stage(torch.ones(1))
    compiled.error = None
    stage(torch.ones(1))
    assert reasons == [] and eager.count == TRIALS + 1


# --- artifacts ------------------------------------------------------------------------------------------------

REPORT_OF = Report(backend="b", precision="f32", eager_s=2.0, seconds=1.0)


def put(artifacts: Artifacts, key: str, data: bytes = b"weights") -> None:
    made = artifacts.begin()
    (made / "stage.bin").write_bytes(data)
    artifacts.put(key, made, REPORT_OF)


def test_what_was_compiled_is_found_again(tmp_path: Path) -> None:
    put(Artifacts(tmp_path, 1 << 20), "k")
    again = Artifacts(tmp_path, 1 << 20)
    report = again.get("k")
    assert report is not None and replace_files(report) == REPORT_OF and set(report.files) == {"stage.bin"}
    assert (again.folder("k") / "stage.bin").read_bytes() == b"weights"
    assert again.get("other") is None


def replace_files(report: Report) -> Report:
    return Report(report.backend, report.precision, report.eager_s, report.seconds)


@pytest.mark.parametrize("damage", [b"Weights", b"weight", None])
@pytest.mark.parametrize("name", ["stage.bin", REPORT])
def test_a_damaged_one_is_removed(tmp_path: Path, damage: bytes | None, name: str) -> None:
    artifacts = Artifacts(tmp_path, 1 << 20)
    put(artifacts, "k")
    file = artifacts.folder("k") / name
    file.unlink() if damage is None else file.write_bytes(damage)
    assert artifacts.get("k") is None
    assert not artifacts.folder("k").exists()


def test_what_was_being_compiled_when_the_executor_died_goes(tmp_path: Path) -> None:
    left = Artifacts(tmp_path, 1 << 20).begin()
    (left / "half").write_bytes(b"x")
    Artifacts(tmp_path, 1 << 20)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_remembered_until_it_is_to_be_tried_again(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, 1 << 20)
    put(artifacts, "k")
    artifacts.fail("k", "out of tolerance")
    again = Artifacts(tmp_path, 1 << 20)
    assert (again.failure("k"), again.failure("other"), again.get("k")) == ("out of tolerance", "", None)
    again.forget_failures()
    assert again.failure("k") == ""


def test_a_crash_is_laid_to_what_the_executor_ran(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, 1 << 20)
    for key in ("ran", "unloaded", "idle"):
        put(artifacts, key)
    artifacts.using("ran", 77)
    artifacts.using("unloaded", 77)
    artifacts.unused("unloaded")
    again = Artifacts(tmp_path, 1 << 20)
    again.distrust(77, "crashed")
    assert "crashed" in again.failure("ran") and again.get("ran") is None
    assert again.get("unloaded") is not None and again.get("idle") is not None


def test_room_is_made_by_the_one_not_used_for_longest(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, 4000)
    for age, key in ((3, "used"), (2, "old"), (1, "new")):
        put(artifacts, key, b"x" * 1000)
        os.utime(artifacts.folder(key), (1e9 - age, 1e9 - age))
    artifacts.using("used", 77)
    os.utime(artifacts.folder("used"), (1e9 - 3, 1e9 - 3))
    assert artifacts.room_for(1000)
    assert [artifacts.get(key) is not None for key in ("used", "old", "new")] == [True, False, True]
    assert not artifacts.room_for(4001), "more than may ever be"
    assert not artifacts.room_for(3000), "what is used stays"


def test_equal_parts_have_equal_keys() -> None:
    assert key_of(a=1, b=[2]) == key_of(b=[2], a=1) != key_of(a=1, b=[3])


# --- the child ------------------------------------------------------------------------------------------------

JOB = Job("openvino", "f32", "m", 0, 1, ("g",), {}, "f", 1, os.getpid())


@pytest.mark.parametrize(
    ("code", "reason", "lasting"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the compiler ended by signal 11", True),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the compiler ended by signal 9", False),
        ("import sys; sys.stdin.read(); sys.exit(3)", "the compiler exited with code 3", True),
        ("""import sys; sys.stdin.read(); print('{"error": "no such operator"}')""", "no such operator", True),
    ],
)
def test_a_child_that_fails(monkeypatch: pytest.MonkeyPatch, code: str, reason: str, lasting: bool) -> None:
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", code))
    wake = os.eventfd(0)
    try:
        assert jobs.run(JOB, wake) == Failed(reason, lasting)
    finally:
        os.close(wake)


def test_a_child_that_nobody_waits_for_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = f"import os, pathlib, signal; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))"
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", code + "; signal.pause()"))
    wake = os.eventfd(1)
    try:
        with pytest.raises(Interrupted):
            jobs.run(JOB, wake)
    finally:
        os.close(wake)
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


class Twice:
    """A backend for stages that double their input, wrong by `error`."""

    def __init__(self, error: float) -> None:
        self.error = error

    def compile(self, source: Any, precision: str, folder: Path) -> None:
        (folder / "stage").write_bytes(b"")

    def load(self, folder: Path, outputs: Any, precision: str, threads: int) -> Any:
        return lambda x: [2 * x + self.error]


@pytest.mark.parametrize(("error", "said"), [(0.0, ""), (1e-6, ""), (0.1, "output 0 is ")])
def test_the_child_compares_with_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float, said: str
) -> None:
    x, y = ValueSpec("x", "float32", ("batch", 3)), ValueSpec("y", "float32", ("batch", 3))
    graph = encode(BlockGraph(("x",), ("y",), (Call("y", "aten.add.Tensor", (Ref("x"), Ref("x")), {}),), {}))
    block = BlockSpec("b", "b" * 64, len(graph), (), (x,), (y,), 1, 1)
    manifest = ModelManifest("m", (x,), (y,), (block,), {"batch": DIMS["batch"]})
    (tmp_path / "graph").write_bytes(graph)
    (tmp_path / "manifest").write_bytes(canonical_json(manifest.to_json()))
    monkeypatch.setitem(table.BACKENDS, "twice", Twice(error))  # type: ignore[arg-type]
    threads = torch.get_num_threads()
    job = Job(
        "twice", "f32", str(tmp_path / "manifest"), 0, 1, (str(tmp_path / "graph"),), {}, str(tmp_path), threads,
        os.getpid(),
    )  # fmt: skip
    with torch.enable_grad():  # so that it is as it was afterwards
        outcome = work(job)
    assert (outcome.error[: len(said)], bool(outcome.error)) == (said, bool(said))
    assert said or (outcome.seconds > 0 and outcome.eager_s > 0)


# --- the table and the samples -----------------------------------------------------------------------------------


def test_the_table_names_what_there_is() -> None:
    assert table.candidates("eager", "cpu") == [] and table.candidates("auto", "cuda") == []
    with pytest.raises(ConfigError, match="there is auto, eager"):
        table.candidates("fastest", "cpu")
    with pytest.raises(ConfigError, match="the device is cuda"):
        table.candidates("openvino", "cuda")


def test_one_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'stageline\[openvino\]'"):
        table.candidates("openvino", "cpu")
    assert table.candidates("auto", "cpu") == []


DIMS = {"batch": DimRange(1, 8, 1), "sequence": DimRange(1, 32, 16)}
IDS = ValueSpec("ids", "int64", ("batch", "sequence"))
COUNT = ValueSpec("count", "int64", (), "int")
OUT = ValueSpec("out", "float32", ("batch", "sequence", 4))


def lookup(rows: int) -> torch.fx.GraphModule:
    """`ids` looked up in a table, and reshaped by a number that stands for the sequence."""
    sha = "a" * 64
    calls = (
        Call("found", "aten.embedding.default", (Ref("t"), Ref("ids")), {}),
        Call("out", "aten.reshape.default", (Ref("found"), [-1, Ref("count"), 4]), {}),
    )
    graph = BlockGraph(("ids", "count"), ("out",), calls, {"t": sha})
    return join([graph], {sha: torch.randn(rows, 4)}, torch.device("cpu"))


def test_samples_fit_the_stage() -> None:
    module = lookup(5)
    made = samples.make(module, (IDS, COUNT), (OUT,), DIMS)
    assert [one.dims for one in made] == [
        {"batch": 3, "sequence": 13},
        {"batch": 2, "sequence": 1},
        {"batch": 1, "sequence": 16},
    ]
    for one in made:
        ids, count = one.inputs
        assert count == one.dims["sequence"] and ids.shape == (one.dims["batch"], count)
        assert int(ids.min()) >= 0 and int(ids.max()) < 5
    assert made[0].inputs[0].unique().numel() > 1, "rows of a table differ"
    again = samples.make(module, (IDS, COUNT), (OUT,), DIMS)
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(made, again, strict=True))


def test_sizes_stay_in_their_ranges() -> None:
    tight = {"batch": DimRange(1, 1, 1), "sequence": DimRange(40, 50, 40)}
    for chosen in samples.sizes(tight):
        assert chosen["batch"] == 1 and 40 <= chosen["sequence"] <= 50


def test_a_stage_that_does_what_its_manifest_does_not_say_is_not_compiled() -> None:
    with pytest.raises(UnsuitableError, match="no inputs can be made"):
        samples.make(lookup(5), (IDS, COUNT), (replace(OUT, dims=("batch", 7, 4)),), DIMS)
