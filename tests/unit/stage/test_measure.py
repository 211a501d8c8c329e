from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stageline.blocks import BlockSpec, DimRange, TensorRef, ValueSpec
from stageline.errors import BlobCorruptError, BlobMissingError
from stageline.manifest import ModelManifest, canonical_json
from stageline.messages import Load, Measure
from stageline.plan import StageKey
from stageline_stage.executor.device import CpuRunner
from stageline_stage.executor.measure import MOST_RUNS, RUNS, Measurement, enough, filled, guesses, summary
from stageline_stage.executor.stages import Stages
from stageline_stage.tensorfile import tensor_bytes

WEIGHT = torch.arange(12.0).reshape(3, 4)
RUNNER = CpuRunner(torch.device("cpu"))


def write(folder: Path, data: bytes) -> Path:
    path = folder / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    return path


def graph(inputs: list[str], nodes: list[tuple[str, str, list[Any]]], tensors: dict[str, str]) -> bytes:
    calls = [{"name": n, "op": op, "args": args, "kwargs": {}} for n, op, args in nodes]
    parts = {"inputs": inputs, "outputs": [nodes[-1][0]], "nodes": calls, "tensors": tensors, "orders": {}}
    return canonical_json({"format": 1, **parts})


@pytest.fixture
def linear(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Files of a manifest with one linear block, its graph and its weight."""
    weight = write(tmp_path, tensor_bytes(WEIGHT))
    data = graph(["x"], [("y", "aten.linear.default", [{"ref": "x"}, {"ref": "w"}])], {"w": weight.name})
    file = write(tmp_path, data)
    ref = TensorRef("w", weight.name, "float32", (3, 4), 48, weight.stat().st_size)
    x, y = ValueSpec("x", "float32", ("batch", 4)), ValueSpec("y", "float32", ("batch", 3))
    block = BlockSpec("linear", file.name, len(data), (ref,), (x,), (y,), 24, 100)
    manifest = ModelManifest("m", (x,), (y,), (block,), {"batch": DimRange(1, 8, 1)})
    return write(tmp_path, canonical_json(manifest.to_json())), file, weight


def run(manifest: Path, file: Path, block: int = 0, batches: tuple[int, ...] = (1, 4)) -> Measurement:
    request = Measure(manifest="m", manifest_path=str(manifest), block=block, graph=str(file), batches=batches)
    measurement = Measurement(request, RUNNER)
    while measurement.step():
        pass
    return measurement


def test_each_batch_size_is_measured_without_weights(linear: tuple[Path, Path, Path]) -> None:
    linear[2].unlink()
    answer = run(*linear[:2]).answer
    assert answer.error == "" and [t.batch for t in answer.times] == [1, 4]
    assert all(t.seconds > 0 for t in answer.times)
    assert [t.workspace_bytes for t in answer.times] == [100, 400]
    assert all(RUNS <= t.runs <= MOST_RUNS and t.error >= 0 for t in answer.times)
    assert all(t.spent_s > t.runs * t.seconds / 2 for t in answer.times)


def test_what_cannot_be_measured_is_answered_with_a_reason(linear: tuple[Path, Path, Path]) -> None:
    manifest, file, _ = linear
    assert "no block 7" in run(manifest, file, block=7).answer.error
    content = json.loads(manifest.read_text())
    content["blocks"][0]["outputs"][0]["dims"] = content["outputs"][0]["dims"] = ["batch", 5]
    manifest.write_bytes(canonical_json(content))
    assert "other shapes" in run(manifest, file).answer.error
    file.unlink()
    assert run(manifest, file).answer.error


def test_numbers_are_guessed_until_the_shapes_fit(tmp_path: Path) -> None:
    x, n = ValueSpec("x", "float32", ("batch", "sequence")), ValueSpec("n", "int64", (), "int")
    y = ValueSpec("y", "float32", ("sequence", "batch"))
    data = graph(["x", "n"], [("y", "aten.reshape.default", [{"ref": "x"}, [{"ref": "n"}, -1]])], {})
    file = write(tmp_path, data)
    block = BlockSpec("b", file.name, len(data), (), (x, n), (y,), 1, 1)
    dims = {"batch": DimRange(1, 8, 1), "sequence": DimRange(1, 16, 6)}
    manifest = ModelManifest("m", (x, n), (y,), (block,), dims)
    answer = run(write(tmp_path, canonical_json(manifest.to_json())), file, batches=(2,)).answer
    assert answer.error == "" and len(answer.times) == 1


def test_guesses_try_the_batch_first_and_end() -> None:
    values = [ValueSpec(f"n{i}", "int64", (), "int") for i in range(9)]
    found = list(guesses(values, {"sequence": 7, "batch": 3}))
    assert set(found[0].values()) == {3} and len(found) == 64
    assert list(guesses([], {"batch": 3})) == [{}]


@pytest.mark.parametrize(("dtype", "value"), [("float32", 0.01), ("bool", True), ("int64", 0), ("uint8", 0)])
def test_synthetic_values(dtype: str, value: float) -> None:
    assert filled(dtype, (2,)).tolist() == pytest.approx([value, value])


def test_the_summary_is_robust_against_one_slow_run() -> None:
    time = summary(3, 1, [1.0, 1.1, 0.9, 9.0, 1.0], 5)
    assert time.seconds == 1.0 and time.spread == pytest.approx(0.1)
    assert time.runs == 5 and summary(3, 1, [1.0, 1.1, 0.9] * 8, 5).error == pytest.approx(0.1)


@pytest.mark.parametrize(("each", "runs"), [(1e-5, 25), (0.001, 20), (0.1, 5), (0.5, 3)])
def test_short_runs_are_repeated_more_often(each: float, runs: int) -> None:
    seconds: list[float] = []
    while not enough(seconds, each):
        seconds.append(each)
    assert len(seconds) == runs


def test_a_stage_is_loaded_from_files_and_forgotten(linear: tuple[Path, Path, Path]) -> None:
    _, file, weight = linear
    stages, key = Stages(torch.device("cpu")), StageKey(manifest="m", start=0, end=1)
    assert stages.get(key) is None
    stages.load(Load(stage=key, graphs=(str(file),), tensors={weight.name: str(weight)}))
    stage = stages.get(key)
    assert stage is not None
    x = torch.ones(2, 4)
    assert torch.equal(stage.call(x)[0], torch.nn.functional.linear(x, WEIGHT))
    stages.unload(key)
    assert stages.get(key) is None


@pytest.mark.parametrize("which", [1, 2])
def test_a_damaged_file_is_not_loaded(linear: tuple[Path, Path, Path], which: int) -> None:
    _, file, weight = linear
    data = bytearray(linear[which].read_bytes())
    data[-1] ^= 1
    linear[which].write_bytes(data)
    load = Load(stage=StageKey(manifest="m", start=0, end=1), graphs=(str(file),), tensors={weight.name: str(weight)})
    with pytest.raises(BlobCorruptError):
        Stages(torch.device("cpu")).load(load)
    linear[which].unlink()
    with pytest.raises(BlobMissingError):
        Stages(torch.device("cpu")).load(load)
