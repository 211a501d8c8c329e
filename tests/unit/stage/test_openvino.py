"""OpenVINO for real, in this process: what it converts, at which sizes and in which precision."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stageline.blocks import DimRange, Tolerance, ValueSpec
from stageline_stage.backends import samples
from stageline_stage.backends.base import Source, UnsuitableError
from stageline_stage.backends.judge import deviation
from stageline_stage.backends.openvino import INPUTS, NAME, OpenVino
from stageline_stage.graph.codec import BlockGraph, Call, Ref
from stageline_stage.graph.rebuild import join

BACKEND = OpenVino()
pytestmark = pytest.mark.skipif(bool(BACKEND.available()), reason=BACKEND.available())

DIMS = {"batch": DimRange(1, 8, 1), "sequence": DimRange(1, 32, 16)}
WIDTH, ROWS = 8, 50


def stage(
    calls: Sequence[tuple[str, str, list[Any]]], inputs: Sequence[str], outputs: Sequence[str], **weights: Any
) -> Any:
    """A module of these calls (name, operator, arguments); strings among the arguments are values."""
    generator = torch.Generator().manual_seed(4)
    tensors = {name: torch.randn(*shape, generator=generator) / shape[-1] ** 0.5 for name, shape in weights.items()}
    shas = {name: f"{number:064x}" for number, name in enumerate(tensors)}

    def read(argument: Any) -> Any:
        return [read(one) for one in argument] if isinstance(argument, list) else (
            Ref(argument) if isinstance(argument, str) else argument
        )  # fmt: skip

    made = tuple(Call(name, op, tuple(map(read, arguments)), {}) for name, op, arguments in calls)
    graph = BlockGraph(tuple(inputs), tuple(outputs), made, shas)
    return join([graph], {shas[name]: tensor for name, tensor in tensors.items()}, torch.device("cpu"))


def source(module: Any, inputs: Sequence[ValueSpec], outputs: Sequence[ValueSpec]) -> Source:
    return Source(module, tuple(inputs), tuple(outputs), samples.make(module, inputs, outputs, DIMS))


def image() -> Source:
    """Convolution, pooling, a linear layer: an image of 3 x 16 x 16 to 10 numbers."""
    module = stage(
        [
            ("a", "aten.conv2d.default", ["x", "w", None, [1, 1], [1, 1]]),
            ("b", "aten.relu.default", ["a"]),
            ("c", "aten.adaptive_avg_pool2d.default", ["b", [1, 1]]),
            ("d", "aten.flatten.using_ints", ["c", 1]),
            ("e", "aten.linear.default", ["d", "v"]),
        ],
        ["x"], ["e"], w=(WIDTH, 3, 3, 3), v=(10, WIDTH),
    )  # fmt: skip
    x, e = ValueSpec("x", "float32", ("batch", 3, 16, 16)), ValueSpec("e", "float32", ("batch", 10))
    return source(module, [x], [e])


def text() -> Source:
    """Attention between two cuts: a mask and two sizes come in beside the rows, and one size and the mask go on."""
    half = ["n", "s", 2, WIDTH // 2]
    module = stage(
        [
            ("h", "aten.layer_norm.default", ["rows", [WIDTH], "g"]),
            ("q0", "aten.linear.default", ["h", "wq"]),
            ("k0", "aten.linear.default", ["h", "wk"]),
            ("q1", "aten.view.default", ["q0", half]),
            ("k1", "aten.view.default", ["k0", half]),
            ("q2", "aten.transpose.int", ["q1", 1, 2]),
            ("k2", "aten.transpose.int", ["k1", 1, 2]),
            ("a", "aten.scaled_dot_product_attention.default", ["q2", "k2", "k2"]),
            ("b", "aten.transpose.int", ["a", 1, 2]),
            ("c", "aten.reshape.default", ["b", ["n", "s", WIDTH]]),
            ("t", "aten.embedding.default", ["table", "mask"]),
            ("d", "aten.add.Tensor", ["c", "t"]),
            ("e", "aten.gelu.default", ["d"]),
        ],
        ["mask", "n", "s", "rows"], ["mask", "s", "e"],
        g=(WIDTH,), wq=(WIDTH, WIDTH), wk=(WIDTH, WIDTH), table=(ROWS, WIDTH),
    )  # fmt: skip
    mask = ValueSpec("mask", "int64", ("batch", "sequence"))
    n, s = ValueSpec("n", "int64", (), "int"), ValueSpec("s", "int64", (), "int")
    rows = ValueSpec("rows", "float32", ("batch", "sequence", WIDTH))
    out = ValueSpec("e", "float32", ("batch", "sequence", WIDTH))
    return source(module, [mask, n, s, rows], [mask, s, out])


@pytest.mark.parametrize("made", [image, text])
def test_one_artifact_serves_all_sizes_with_the_outputs_of_torch(made: Any, tmp_path: Path) -> None:
    given = made()
    BACKEND.compile(given, "f32", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [INPUTS, "stage.bin", NAME]
    call = BACKEND.load(tmp_path, given.outputs, "f32", 1)
    with torch.inference_mode():
        kept = [(call(*one.inputs), given.module(*one.inputs)) for one in given.samples]
    for outputs, wanted in kept:  # each was computed before the others, and is as it was
        assert deviation(outputs, wanted, Tolerance(1e-5, 1e-6)) == ""


def test_a_number_that_is_not_the_size_that_it_was_taken_for_is_refused(tmp_path: Path) -> None:
    given = text()
    BACKEND.compile(given, "f32", tmp_path)
    mask, n, s, rows = given.samples[0].inputs
    with pytest.raises(UnsuitableError, match="not the size"):
        BACKEND.load(tmp_path, given.outputs, "f32", 1)(mask, n, s + 1, rows)


def test_it_sends_nothing_to_its_maker() -> None:
    code = (
        "from stageline_stage.backends.openvino import OpenVino; OpenVino().prepare(); import sys;"
        "import openvino.tools.ovc.telemetry_utils as used;"
        "assert sys.modules['openvino_telemetry'] is None and 'stub' in used.tm.__name__, used.tm"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_input_that_cannot_be_handed_over_is_named() -> None:
    value = ValueSpec("x", "bfloat16", ("batch", 4))
    module = stage([("y", "aten.relu.default", ["x"])], ["x"], ["y"])
    with pytest.raises(UnsuitableError, match="input x is of bfloat16"):
        BACKEND.compile(Source(module, (value,), (value,), ()), "f32", Path())
