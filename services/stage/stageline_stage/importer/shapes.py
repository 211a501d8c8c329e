"""Symbolic sizes of an exported graph, as the manifest writes them and as numbers at nominal sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx

from stageline.blocks import SCALAR_DTYPE
from stageline.dims import MAX_EXPRESSION, Dim
from stageline.errors import ModelImportError
from stageline.manifest import ValueSpec
from stageline_stage.graph.codec import dtype_name

_CALLS = {"Max": "max", "Min": "min"}
_INFIX = {"FloorDiv": "//", "PythonMod": "%", "Mod": "%", "CleanDiv": "//"}


class Symbols:
    """Names and nominal sizes of a graph's dynamic dimensions."""

    def __init__(self, names: Mapping[Any, str], nominal: Mapping[str, int]) -> None:
        self._names = dict(names)
        self._nominal = {symbol: nominal[name] for symbol, name in names.items()}

    def dim(self, size: Any) -> Dim:
        """A size as the manifest writes it: a number, a name or an expression over names."""
        if isinstance(size, int):
            return size
        expression = sympy.expand(_expression(size))
        if expression.is_Integer:
            return int(expression)
        text = self._text(expression)
        if len(text) > MAX_EXPRESSION:
            raise ModelImportError(f"a size has a formula longer than {MAX_EXPRESSION} characters: {text[:60]}…")
        return text

    def _text(self, expression: Any) -> str:
        if expression in self._names:
            return str(self._names[expression])
        if expression.is_Integer:
            return str(int(expression)) if expression >= 0 else f"({int(expression)})"
        parts = [self._text(arg) for arg in expression.args]
        kind = type(expression).__name__
        if kind in ("Add", "Mul") and parts:
            return "(" + ("+" if kind == "Add" else "*").join(parts) + ")"
        if kind in _CALLS and len(parts) == 2:
            return f"{_CALLS[kind]}({parts[0]},{parts[1]})"
        if kind in _INFIX and len(parts) == 2:
            return f"({parts[0]}{_INFIX[kind]}{parts[1]})"
        if kind == "Pow" and parts[1] == "2":
            return f"({parts[0]}*{parts[0]})"
        raise ModelImportError(f"a size of the model depends on values or has an unknown formula: {expression}")

    def number(self, size: Any) -> int:
        """The size when every dynamic dimension is nominal."""
        if isinstance(size, int):
            return size
        numbers = {symbol: sympy.Integer(n) for symbol, n in self._nominal.items()}
        found = _expression(size).xreplace(numbers)
        if not found.is_Integer:
            raise ModelImportError("its result's size depends on the values of its inputs, not on their sizes alone")
        return int(found)

    def numel(self, value: torch.Tensor) -> int:
        """Elements of a traced tensor at nominal sizes."""
        return prod(self.number(size) for size in value.shape)

    def nbytes(self, value: Any) -> int:
        """Bytes of a traced value at nominal sizes; lists count all their tensors."""
        if isinstance(value, torch.Tensor):
            return self.numel(value) * value.element_size()
        if isinstance(value, list | tuple):
            return sum(self.nbytes(item) for item in value)
        return 8

    def spec(self, name: str, value: Any) -> ValueSpec:
        """What the manifest says of a value that crosses a cut."""
        if isinstance(value, torch.Tensor):
            return ValueSpec(name, dtype_name(value.dtype), tuple(self.dim(size) for size in value.shape))
        kind = scalar_kind(value)
        if kind is None:
            raise ModelImportError(f"value {name!r} is neither a tensor nor a number, so it cannot leave a block")
        return ValueSpec(name, SCALAR_DTYPE[kind], (), kind)


def _expression(size: Any) -> Any:
    return size.node.expr


def scalar_kind(value: Any) -> str | None:
    """ "int", "float" or "bool" for a number or symbolic number, else None."""
    if isinstance(value, bool | torch.SymBool):
        return "bool"
    if isinstance(value, int | torch.SymInt):
        return "int"
    return "float" if isinstance(value, float | torch.SymFloat) else None


def memory_order(value: torch.Tensor) -> tuple[int, ...] | None:
    """The axes of a traced tensor from the outermost in memory to the innermost; None if it has gaps or overlaps."""
    sizes, strides = [_example(size) for size in value.shape], [_example(stride) for stride in value.stride()]
    order = sorted(range(len(sizes)), key=lambda axis: (-strides[axis], axis))
    if _is_dense(range(len(sizes)), sizes, strides):
        return tuple(range(len(sizes)))
    return tuple(order) if _is_dense(order, sizes, strides) else None


def _is_dense(order: Sequence[int], sizes: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for axis in reversed(order):
        if sizes[axis] != 1 and strides[axis] != expected:
            return False
        expected *= sizes[axis]
    return True


def _example(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def symbol_names(graph: fx.Graph, inputs: Sequence[str], dynamic: Mapping[str, Mapping[int, str]]) -> dict[Any, str]:
    """Which symbol of the graph is which named dimension, from the placeholders' shapes."""
    names: dict[Any, str] = {}
    for node, given_name in zip(graph.find_nodes(op="placeholder"), inputs, strict=True):
        value = node.meta.get("val")
        for axis, name in dynamic.get(given_name, {}).items():
            if isinstance(value, torch.Tensor) and isinstance(value.shape[axis], torch.SymInt):
                names.setdefault(_expression(value.shape[axis]), name)
    return names
