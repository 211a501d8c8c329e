"""Block graphs: canonical bytes, strict reading, operators refused by name, stages rebuilt on any device."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stageline.errors import BlobMissingError, ManifestError, ModelError, UnsupportedOperatorError
from stageline.manifest import canonical_json
from stageline_stage.graph.codec import BlockGraph, Call, HereDevice, Ref, decode, encode
from stageline_stage.graph.ops import resolve
from stageline_stage.graph.rebuild import load_stage

from .test_manifest import JSON, places

SHA = "ab" * 32
GRAPH = BlockGraph(
    inputs=("x", "n"),
    outputs=("y", "m", "x"),
    calls=(
        Call("a", "aten.linear.default", (Ref("x"), Ref("w")), {}),
        Call("m", "py.mul", (Ref("n"), 2), {}),
        Call("r", "aten.arange.default", (Ref("m"),), {"device": HereDevice(), "dtype": torch.float32}),
        Call("p", "aten.full.default", ([1], -math.inf), {"device": HereDevice(), "pin_memory": False}),
        Call("q", "aten.maximum.default", (Ref("a"), Ref("p")), {}),
        Call("y", "aten.add.Tensor", (Ref("q"), Ref("r")), {"alpha": 0.5}),
    ),
    tensors={"w": SHA},
)


def with_node(op: str, *args: Any, **kwargs: Any) -> bytes:
    obj = json.loads(encode(GRAPH))
    obj["nodes"].append({"name": "extra", "op": op, "args": list(args), "kwargs": kwargs})
    return canonical_json(obj)


def test_round_trip() -> None:
    assert decode(encode(GRAPH)) == GRAPH
    assert encode(decode(encode(GRAPH))) == encode(GRAPH)


def test_a_stage_runs() -> None:
    weight = torch.randn(6, 4)
    x = torch.randn(2, 4)
    y, m, same = load_stage([encode(GRAPH)], {SHA: weight})(x, 3)
    assert m == 6
    assert same is x
    assert torch.equal(y, x @ weight.T + 0.5 * torch.arange(6.0))


def test_constants_land_on_the_stages_device() -> None:
    stage = load_stage([encode(GRAPH)], {SHA: torch.randn(6, 4)}, "meta")
    assert stage(torch.empty(2, 4, device="meta"), 3)[0].device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_stage_runs_on_cuda() -> None:
    weight, x = torch.randn(6, 4), torch.randn(2, 4)
    y = load_stage([encode(GRAPH)], {SHA: weight}, "cuda")(x.cuda(), 3)[0]
    assert torch.allclose(y.cpu(), load_stage([encode(GRAPH)], {SHA: weight})(x, 3)[0], atol=1e-5)


def test_cheap_calls_of_joined_blocks_are_made_once() -> None:
    block = encode(BlockGraph(("x",), ("x", "s"), (Call("s", "aten.cos.default", (Ref("x"),), {}),), {}))
    after = BlockGraph(("x", "t"), ("u",), (Call("s", "aten.cos.default", (Ref("x"),), {}),
                                           Call("u", "aten.add.Tensor", (Ref("s"), Ref("t")), {})), {})  # fmt: skip
    stage = load_stage([block, encode(after)], {})
    assert [node.op for node in stage.graph.nodes].count("call_function") == 2
    assert torch.equal(stage(torch.zeros(2))[0], torch.full((2,), 2.0))


def test_blocks_that_do_not_fit_together() -> None:
    with pytest.raises(ManifestError, match="takes 2 values, but the one before gives 3"):
        load_stage([encode(GRAPH), encode(GRAPH)], {SHA: torch.randn(6, 4)})
    with pytest.raises(BlobMissingError):
        load_stage([encode(GRAPH)], {})


@pytest.mark.parametrize(
    "op",
    [
        "aten.add_.Tensor",
        "aten.rand.default",
        "aten.dropout.default",
        "aten.from_file.default",
        "aten.add.out",
        "aten.nothing.default",
        "prims.add.default",
        "mylib.op.default",
        "py.eval",
        "os.system",
        "aten.add.__class__",
        "aten.__class__.default",
    ],
)
def test_other_operators_are_refused_by_name(op: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=op.replace(".", r"\.")):
        decode(with_node(op, {"ref": "x"}))
    with pytest.raises(UnsupportedOperatorError):
        resolve(op)


def test_training_is_refused() -> None:
    x = {"ref": "x"}
    with pytest.raises(UnsupportedOperatorError, match="training=True"):
        decode(with_node("aten.batch_norm.default", x, None, None, x, x, True, 0.1, 1e-5, False))
    with pytest.raises(UnsupportedOperatorError, match="dropout_p"):
        decode(with_node("aten.scaled_dot_product_attention.default", x, x, x, None, 0.1))


def test_arguments_must_fit_the_operator() -> None:
    with pytest.raises(UnsupportedOperatorError, match="does not have"):
        decode(with_node("aten.relu.default", {"ref": "x"}, 1))
    with pytest.raises(UnsupportedOperatorError, match="lacks its argument"):
        decode(with_node("aten.linear.default", {"ref": "x"}))


@pytest.mark.parametrize("name", ["", "1a", "a b", "class", "self", "__import__", "x\n", "a;b", "é", 3])
def test_names_are_identifiers(name: Any) -> None:
    obj = json.loads(encode(GRAPH))
    obj["nodes"][0]["name"] = name
    with pytest.raises(ManifestError):
        decode(canonical_json(obj))


def test_uses_follow_definitions() -> None:
    with pytest.raises(ManifestError, match="before it is defined"):
        decode(with_node("aten.relu.default", {"ref": "later"}))
    obj = json.loads(encode(GRAPH))
    obj["nodes"].append(copy.deepcopy(obj["nodes"][0]))
    with pytest.raises(ManifestError, match="second time"):
        decode(canonical_json(obj))


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b'{"format":1}', b'{"format":2}', b"\xff", b"NaN", b"null"])
def test_what_is_no_graph(data: bytes) -> None:
    with pytest.raises(ManifestError):
        decode(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_is_read_or_refused(data: st.DataObject) -> None:
    obj = json.loads(encode(GRAPH))
    path = data.draw(st.sampled_from(places(obj)))
    holder = obj
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = data.draw(JSON)
    try:
        graph = decode(json.dumps(obj).encode())
    except ModelError:
        return
    assert decode(encode(graph)) == graph
    load_stage([encode(graph)], {sha: torch.zeros(6, 4) for sha in graph.tensors.values()})
