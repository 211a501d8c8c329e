"""Manifests survive a round trip, and whatever is malformed is refused by the field's name."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageline.dims import dim_size
from stageline.errors import ManifestError
from stageline.manifest import BlockSpec, DimRange, ModelManifest, TensorRef, ValueSpec, canonical_json

SHA = "ab" * 32
IMAGE = ValueSpec("image", "float32", ("batch", 3, "2*width"))
SIZE = ValueSpec("size", "int64", (), "int")
LOGITS = ValueSpec("logits", "bfloat16", ("batch", 10))
WEIGHT = TensorRef("w", SHA, "float16", (4, 2), 16, 128)
EXAMPLE = ModelManifest(
    name="m",
    inputs=(IMAGE,),
    outputs=(LOGITS,),
    blocks=(
        BlockSpec("first", "cd" * 32, 50, (WEIGHT,), (IMAGE,), (IMAGE, SIZE), 100, 10),
        BlockSpec("second", "ef" * 32, 60, (WEIGHT,), (IMAGE, SIZE), (LOGITS,), 200, 20),
    ),
    dims={"batch": DimRange(1, 8, 4), "width": DimRange(2, 64, 5)},
    source="hf:some/model",
    torch_version="2.13.0",
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(obj: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


def test_round_trip() -> None:
    text = canonical_json(EXAMPLE.to_json())
    assert ModelManifest.from_json(json.loads(text)) == EXAMPLE


def test_sizes() -> None:
    assert EXAMPLE.cut_bytes(0) == 3 * 10 * 4  # one item, whatever the nominal batch
    assert EXAMPLE.cut_bytes(1) == 3 * 10 * 4 + 8
    assert EXAMPLE.cut_bytes(2) == 20
    assert EXAMPLE.weight_bytes == 16
    assert EXAMPLE.blobs() == {"cd" * 32: 50, "ef" * 32: 60, SHA: 128}
    assert IMAGE.shape == (-1, 3, -1)


def test_the_digest_ignores_the_name_only() -> None:
    data = EXAMPLE.to_json()
    assert ModelManifest.from_json({**data, "name": "other"}).digest == EXAMPLE.digest
    assert ModelManifest.from_json({**data, "source": "other"}).digest != EXAMPLE.digest


@settings(deadline=None)
@given(st.data())
def test_any_change_is_read_or_refused(data: st.DataObject) -> None:
    obj = copy.deepcopy(EXAMPLE.to_json())
    path = data.draw(st.sampled_from(places(obj)))
    holder = obj
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(JSON)
    else:
        del holder[path[-1]]
    try:
        manifest = ModelManifest.from_json(obj)
    except ManifestError:
        return
    assert ModelManifest.from_json(manifest.to_json()) == manifest


@settings(deadline=None)
@given(JSON)
def test_any_json_is_read_or_refused(obj: Any) -> None:
    with pytest.raises(ManifestError):
        ModelManifest.from_json(obj)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("name",), "../x", "manifest.name"),
        (("format",), 99, "upgrade"),
        (("blocks", 0, "graph"), "zz", r"manifest.blocks\[0\].graph"),
        (("blocks", 1, "tensors", 0, "dtype"), "complex64", r"manifest.blocks\[1\].tensors\[0\].dtype"),
        (("blocks", 1, "tensors", 0, "nbytes"), 17, "nbytes must be 16"),
        (("blocks", 0, "outputs"), [], "inputs of the block after it"),
        (("blocks",), [], "must not be empty"),
        (("dims", "batch", "max"), 0, "manifest.dims.batch.max"),
        (("tolerance", "rtol"), -1, "manifest.tolerance.rtol"),
        (("inputs", 0, "dims"), ["batch", 3, "__import__('os')"], "inputs"),
    ],
)
def test_errors_name_the_field(path: tuple[Any, ...], value: Any, message: str) -> None:
    obj = copy.deepcopy(EXAMPLE.to_json())
    holder = obj
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(ManifestError, match=message):
        ModelManifest.from_json(obj)


def test_size_expressions() -> None:
    sizes = {"batch": 4, "sequence": 7}
    assert dim_size(3, sizes) == 3
    assert dim_size("(batch+2*sequence)//3-1", sizes) == 5
    assert dim_size("max(batch,sequence)%4", sizes) == 3


@pytest.mark.parametrize(
    "text", ["", "x", "batch/2", "batch**2", "1//0", "0-1", "f(1)", "batch.real", "(" * 150, "9" * 60]
)
def test_other_expressions_are_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        dim_size(text, {"batch": 4})


@settings(deadline=None)
@given(st.text(alphabet="abtchseqn0123456789+-*/%(), _x.", max_size=40))
def test_any_expression_is_a_size_or_refused(text: str) -> None:
    with contextlib.suppress(ManifestError):
        assert dim_size(text, {"batch": 4, "sequence": 7}) >= 0
