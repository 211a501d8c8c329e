"""Facts about ATen calls that several importer steps need."""

from __future__ import annotations

from torch import fx
from torch._ops import OpOverload

_VIEWS = """
    alias as_strided broadcast_to chunk contiguous detach diagonal expand expand_as flatten movedim narrow permute
    reshape select slice split split_with_sizes squeeze swapaxes swapdims t to transpose type_as unbind unflatten
    unfold unsqueeze view view_as
"""
VIEWS = frozenset(_VIEWS.split())
"""Calls whose result may share memory with their first argument."""


def packet(node: fx.Node) -> str:
    """The ATen operator that a node calls, without namespace and overload; "" for anything else."""
    target = node.target
    return target._schema.name.removeprefix("aten::") if isinstance(target, OpOverload) else ""


def is_view(node: fx.Node) -> bool:
    """Whether the result may share memory with an argument; so for a Python call, e.g. taking an item of a tuple."""
    return node.op == "call_function" and packet(node) in VIEWS | {""}
