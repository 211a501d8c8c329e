"""Networks whose branches cross cuts: several tensors, a symbolic int, odd memory orders, in-place calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from stageline.manifest import DimRange
from stageline_stage.importer import Signature
from stageline_stage.importer.export import BATCH


class Branches(nn.Module):
    """Two chains of convolutions side by side, joined late with sizes of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(5))
        self.right = nn.ModuleList(nn.Conv2d(8, 8, 5, padding=2) for _ in range(5))
        self.join = nn.Conv2d(16, 4, 1)

    def forward(self, image: torch.Tensor, gain: torch.Tensor) -> dict[str, torch.Tensor]:
        left, right = image, image.transpose(2, 3)
        for a, b in zip(self.left, self.right, strict=True):
            left, right = functional.relu(a(left)), functional.silu(b(right))
        both = self.join(torch.cat([left, right.transpose(2, 3)], dim=1))
        flat = both.reshape(image.shape[0] * 4, -1) * gain.sum()
        return {"flat": flat, "early": left.mean(dim=(1, 2, 3)), "both": both}


class InPlace(nn.Module):
    """Writes into its intermediate values, also through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y.add_(1.0).relu_()
        half = y[:, :4]
        half.mul_(2.0)
        return self.second(y).sigmoid_()


@pytest.fixture(scope="module")
def branches(bring: Any) -> Any:
    torch.manual_seed(0)
    inputs = {"image": torch.randn(2, 8, 12, 12), "gain": torch.randn(2, 3)}
    return bring("branches", Branches(), Signature.batched(inputs))


@pytest.mark.parametrize("batch", range(1, 9))
def test_branches_are_bit_equal_when_cut_everywhere(branches: Any, batch: int) -> None:
    inputs = {"image": torch.randn(batch, 8, 12, 12), "gain": torch.randn(batch, 3)}
    branches.check(inputs, list(range(1, len(branches.manifest.blocks))))
    branches.check(inputs, branches.random_cuts(batch, 2))


def test_several_tensors_and_a_size_cross_a_cut(branches: Any) -> None:
    crossings = [block.outputs for block in branches.manifest.blocks[:-1]]
    assert any(sum(value.kind == "tensor" for value in values) >= 3 for values in crossings)
    assert any(value.kind == "int" for values in crossings for value in values)
    assert [value.name for value in branches.manifest.outputs] == ["flat", "early", "both"]
    assert branches.manifest.outputs[0].dims == ("(4*batch)", 144)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_in_place_calls_become_pure(bring: Any, batch: int) -> None:
    torch.manual_seed(0)
    model = bring("inplace", InPlace(), Signature.batched({"x": torch.randn(2, 8)}))
    model.check({"x": torch.randn(batch, 8)}, list(range(1, len(model.manifest.blocks))))


def test_a_dynamic_length_of_any_name(bring: Any) -> None:
    signature = Signature({"x": torch.randn(2, 6, 8)}, {"x": {0: "batch", 1: "frames"}},
                          {"batch": BATCH, "frames": DimRange(1, 64, 10)})  # fmt: skip
    model = bring("frames", nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)), _renamed(signature))
    assert model.manifest.cut_bytes(0) == 10 * 8 * 4
    model.check({"input": torch.randn(3, 5, 8)}, [1])


def _renamed(signature: Signature) -> Signature:
    """The same with the name that `nn.Sequential.forward` gives its parameter."""
    return Signature({"input": signature.inputs["x"]}, {"input": signature.dynamic["x"]}, signature.dims)
