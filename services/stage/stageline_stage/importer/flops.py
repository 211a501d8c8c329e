"""Floating point operations of one call, from the shapes that export recorded. A multiply-add counts two."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from stageline_stage.importer.shapes import Symbols
from stageline_stage.importer.views import VIEWS, packet

_FREE = VIEWS | {"embedding", "sym_size"}
_MATRIX = frozenset({"mm", "bmm", "matmul", "addmm", "baddbmm", "linear", "dot", "mv"})
_CONVOLUTION = frozenset({"conv1d", "conv2d", "conv3d", "convolution"})
HEAVY = (
    _MATRIX
    | _CONVOLUTION
    | {
        "scaled_dot_product_attention",
        "einsum",
        "embedding",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
    }
)
"""The calls around which a model is worth cutting."""


def call_flops(node: fx.Node, symbols: Symbols) -> int:
    """Operations of the call at nominal sizes."""
    name, out = packet(node), node.meta.get("val")
    if not name or name in _FREE:
        return 0
    shapes = [_shape(arg, symbols) for arg in node.args]
    produced = sum(symbols.numel(t) for t in _tensors(out))
    if name in _CONVOLUTION:
        return 2 * produced * _product(shapes[1][1:])
    if name.startswith("conv_transpose"):
        return 2 * _product(shapes[0]) * _product(shapes[1][1:])
    if name in _MATRIX:
        left = shapes[1] if name in ("addmm", "baddbmm") else shapes[0]
        return 2 * produced * (left[-1] if left else 1)
    if name == "scaled_dot_product_attention":
        return 2 * _product(shapes[0]) * shapes[1][-2] + 2 * produced * shapes[1][-2]
    return produced


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [item for item in value if isinstance(item, torch.Tensor)] if isinstance(value, list | tuple) else []


def _shape(arg: Any, symbols: Symbols) -> list[int]:
    value = arg.meta.get("val") if isinstance(arg, fx.Node) else None
    return [symbols.number(size) for size in value.shape] if isinstance(value, torch.Tensor) else []


def _product(sizes: list[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
