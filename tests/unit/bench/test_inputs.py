"""Inputs fit the signature, are safe for any vocabulary and repeat with the seed."""

from __future__ import annotations

import numpy as np
import pytest

from stageline.bench.inputs import DISTINCT, POOL_BYTES, make_pool
from stageline.errors import ConfigError
from stageline.plan import DimRange, Signature, ValueSpec

BERT = Signature(
    inputs=(
        ValueSpec(name="input_ids", dtype="int64", dims=("batch", "sequence")),
        ValueSpec(name="mask", dtype="bool", dims=("batch", "2*sequence + 1")),
        ValueSpec(name="scale", dtype="float16", dims=("batch", 3)),
    ),
    outputs=(),
    dims={
        "batch": DimRange(minimum=1, maximum=8, nominal=2),
        "sequence": DimRange(minimum=2, maximum=512, nominal=16),
    },
)


def fixed(dtype: str, *dims: int | str) -> Signature:
    return Signature(inputs=(ValueSpec(name="x", dtype=dtype, dims=dims),), outputs=())


def test_dynamic_sizes_are_nominal_and_the_batch_is_as_asked() -> None:
    first = make_pool(BERT, batch=4, seed=0)[0]
    assert {name: (value.dtype.name, value.shape) for name, value in first.items()} == {
        "input_ids": ("int64", (4, 16)),
        "mask": ("bool", (4, 33)),
        "scale": ("float16", (4, 3)),
    }


def test_integers_are_zero_or_one() -> None:
    for dtype in ("uint8", "int8", "int16", "int32", "int64"):
        (value,) = make_pool(fixed(dtype, "batch", 1000), 1, 0)[0].values()
        assert set(np.unique(value)) == {0, 1}


def test_inputs_differ_from_each_other_and_repeat_with_the_seed() -> None:
    pool = make_pool(BERT, 2, seed=5)
    assert len(pool) == DISTINCT
    again, other = make_pool(BERT, 2, seed=5), make_pool(BERT, 2, seed=6)
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(pool, again, strict=True) for name in a)
    assert not np.array_equal(pool[0]["scale"], pool[1]["scale"])
    assert not np.array_equal(pool[0]["scale"], other[0]["scale"])


def test_large_inputs_make_a_small_pool() -> None:
    third = POOL_BYTES // 3
    assert len(make_pool(fixed("uint8", "batch", third), 1, 0)) == 3
    assert len(make_pool(fixed("uint8", "batch", POOL_BYTES + 1), 1, 0)) == 1


@pytest.mark.parametrize(
    ("signature", "batch", "wanted"),
    [
        (BERT, 9, "--batch must be between 1 and 8"),
        (fixed("float32", 4, 3), 1, "use --batch 4"),
        (fixed("bfloat16", "batch", 3), 1, "numpy has no bfloat16"),
    ],
)
def test_what_cannot_be_made_says_why(signature: Signature, batch: int, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        make_pool(signature, batch, 0)
