"""Symbolic sizes: a dimension is a number, a name ("batch") or an expression over names ("2*sequence+1")."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

from stageline.errors import ManifestError

Dim = int | str
MAX_EXPRESSION = 200
EXPRESSION = re.compile(r"[a-z0-9_ +*/%(),-]+")

_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CALLS: dict[str, Callable[[int, int], int]] = {"max": max, "min": min}


def dim_size(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The number that `dim` stands for when each name has the size in `sizes`.

    Expressions know `+ - * // %`, `max(a, b)` and `min(a, b)`. `ManifestError` for anything else, an unknown
    name, a division by zero or a negative size.
    """
    if isinstance(dim, int):
        return dim
    known = sizes.get(dim, -1)
    if 0 <= known < 2**63:
        return known
    if len(dim) > MAX_EXPRESSION:
        raise ManifestError(f"size expression {dim[:40]!r}… is longer than {MAX_EXPRESSION} characters")
    if not EXPRESSION.fullmatch(dim):
        raise ManifestError(f"size expression {dim!r} has characters that no expression uses")
    try:
        size = _value(ast.parse(dim, mode="eval").body, sizes)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ManifestError(f"size expression {dim!r} is malformed") from error
    if not 0 <= size < 2**63:
        raise ManifestError(f"size expression {dim!r} gives {size!s:.40}, which is no size")
    return size


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name) and node.id in sizes:
        return sizes[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, sizes)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left, sizes), _value(node.right, sizes))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 2:
        call = _CALLS.get(node.func.id)
        if call is not None and not node.keywords:
            return call(_value(node.args[0], sizes), _value(node.args[1], sizes))
    raise ManifestError(f"size expression has {ast.unparse(node)!r:.60}, which is not a known size or operation")
