"""What a codec costs in accuracy, what it refuses, and that it is used only where the path says so."""

from __future__ import annotations

import struct

import pytest
import torch

from stageline.codecs import CODECS, MIN_CODED_BYTES
from stageline.data import DATA_VERSION, Activation, Hop, Tensor, check_tensor, decode_frames
from stageline.errors import RemoteProtocolError
from stageline.plan import StageKey
from stageline_stage.executor.batches import next_message
from stageline_stage.executor.tensors import outgoing_values, received_tensor, received_values

KEY = StageKey(manifest="a" * 64, start=0, end=1)
CODED = sorted(CODECS)


def there_and_back(value: torch.Tensor, codec: str) -> tuple[Tensor, torch.Tensor]:
    (spec,), (buffer,) = outgoing_values([value], codec)
    assert isinstance(spec, Tensor)
    check_tensor(spec.dtype, spec.shape, memoryview(buffer).nbytes, spec.codec)
    return spec, received_tensor(spec, bytes(buffer))


@pytest.mark.parametrize(
    ("codec", "scale"), [*((codec, s) for codec in CODED for s in (1e-3, 1.0, 1e4)), ("int8", 1e-30), ("int8", 1e30)]
)
@pytest.mark.parametrize("shape", [(1, 512), (3, 7, 100), (8, 256, 14, 14)])
def test_the_error_is_within_what_is_stated(codec: str, shape: tuple[int, ...], scale: float) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scale
    spec, got = there_and_back(value, codec)
    assert (spec.codec, spec.dtype, got.dtype, got.shape) == (codec, "float32", torch.float32, value.shape)
    off = (got - value).abs().reshape(shape[0], -1).amax(1)
    largest = value.abs().reshape(shape[0], -1).amax(1)
    assert bool((off <= largest * CODECS[codec].error * (1 + 1e-5)).all())
    assert not torch.equal(got, value), "nothing was coded"


@pytest.mark.parametrize("codec", CODED)
def test_zeros_and_the_largest_value_of_an_item_come_back(codec: str) -> None:
    value = torch.zeros(2, 300)
    value[1, 7] = -40.0
    _, got = there_and_back(value, codec)
    assert torch.equal(got[0], value[0]) and got[1, 7].item() == pytest.approx(-40.0, rel=1e-6)


@pytest.mark.parametrize("codec", CODED)
def test_an_item_does_not_depend_on_its_batch_mates(codec: str) -> None:
    value = torch.randn(4, 300, generator=torch.Generator().manual_seed(2)) * torch.tensor(
        [[1.0], [1e3], [1e-3], [5.0]]
    )
    together = there_and_back(value, codec)[1]
    assert all(torch.equal(there_and_back(value[i : i + 1], codec)[1][0], together[i]) for i in range(4))


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        *((codec, torch.full((1, 300), bad)) for codec in CODED for bad in (float("nan"), float("inf"))),
        *(("fp16", torch.full((1, 300), size)) for size in (70_000.0, -1e-5)),
        *((codec, torch.ones(1, 300, dtype=torch.float64)) for codec in CODED),
        *((codec, torch.ones(1, 300, dtype=torch.int64)) for codec in CODED),
        *((codec, torch.ones(MIN_CODED_BYTES // 4 - 1)) for codec in CODED),
        ("zip", torch.ones(1, 300)),
        ("", torch.ones(1, 300)),
    ],
)
def test_what_a_codec_cannot_hold_travels_as_it_is(codec: str, value: torch.Tensor) -> None:
    spec, got = there_and_back(value, codec)
    assert spec.codec == "" and torch.equal(got.nan_to_num(7), value.nan_to_num(7))


def test_golden_bytes() -> None:
    value = torch.zeros(2, 256)
    value[0, :3], value[1, :2] = torch.tensor([1.0, -0.5, 127.0]), torch.tensor([254.0, -3.0])
    (_,), (fp16,) = outgoing_values([value], "fp16")
    assert bytes(fp16)[:6].hex() == "003c00b8f057" and memoryview(fp16).nbytes == 1024
    (_,), (int8,) = outgoing_values([value], "int8")
    data = bytes(int8)
    assert struct.unpack("<2f", data[:8]) == (1.0, 2.0) and len(data) == 8 + 512
    assert data[8:11].hex() == "01007f" and data[264:266].hex() == "7ffe"  # -0.5 and -1.5 round to even


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes", "codec", "message"),
    [
        ("float32", (2, 8), 32, "int8", "needs 24 bytes"),
        ("float32", (2, 8), 64, "fp16", "needs 32 bytes"),
        ("float32", (2, 8), 64, "zip", "fp16 or int8"),
        ("int64", (2, 8), 24, "int8", "only float32"),
    ],
)
def test_a_coded_tensor_is_checked(dtype: str, shape: tuple[int, ...], nbytes: int, codec: str, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        check_tensor(dtype, shape, nbytes, codec)


def test_only_the_hop_that_the_path_names_is_coded() -> None:
    path = tuple(Hop(KEY, f"tcp://127.0.0.1:{i}", f"n{i}", "e", codec) for i, codec in enumerate(("", "int8", "")))
    value = torch.linspace(-1, 1, 512).view(1, 512)
    header = Activation(
        DATA_VERSION, "g", 1, (1,), (1,), 1, (1, 1), path, 0, "tcp://127.0.0.1:9", (Tensor("float32", (1, 512)),)
    )
    codecs = []
    for _ in path:
        header, buffers = decode_frames(next_message(header, [value], 0.0, 0.0).frames)  # type: ignore[assignment]
        codecs.append(header.values[0].codec)  # type: ignore[union-attr]
        (value,) = received_values(header.values, buffers)  # type: ignore[assignment]
    assert codecs == ["int8", "", ""] and header.finished
    assert torch.allclose(value, torch.linspace(-1, 1, 512).view(1, 512), atol=1 / 254)
