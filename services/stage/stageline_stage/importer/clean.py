"""Bring an exported graph into the plain form that blocks hold: pure calls, no guards, no dropout, no dead code."""

from __future__ import annotations

import warnings

import torch
from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

from stageline.errors import UnsupportedOperatorError
from stageline_stage.graph.ops import ALLOWED_PACKETS, op_name, resolve
from stageline_stage.importer.places import telling
from stageline_stage.importer.views import is_view, packet

_CHECKS = ("_assert_", "sym_constrain_range", "_guard")
_EVAL_IDENTITIES = ("dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout")


def plain_graph(program: ExportedProgram) -> fx.GraphModule:
    """The exported program as one flat graph of allowed, pure calls.

    Raises `UnsupportedOperatorError` naming an operator that stages do not run and the module that calls it.
    """
    module = _unlifted(program)
    if not _functionalise(module.graph):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = _unlifted(program.run_decompositions({}))
    _check(module.graph)
    return module


def _unlifted(program: ExportedProgram) -> fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: fx.GraphModule = program.module(check_guards=False)
    for node in reversed(list(module.graph.nodes)):
        if node.op == "call_module" or (node.op == "call_function" and _is_check(node)):
            module.graph.erase_node(node)
        elif node.op == "call_function" and _is_eval_identity(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_mutating(node))
    return module


def _is_check(node: fx.Node) -> bool:
    return not node.users and packet(node).startswith(_CHECKS)


def _is_eval_identity(node: fx.Node) -> bool:
    return packet(node) in _EVAL_IDENTITIES and len(node.args) == 3 and node.args[2] is False


def is_mutating(node: fx.Node) -> bool:
    """Whether the call writes to one of its arguments."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _functionalise(graph: fx.Graph) -> bool:
    """Turn `x.add_(y)` into `x.add(y)` where no other value shares x's memory; False if some call resists."""
    for node in list(graph.nodes):
        if not is_mutating(node):
            continue
        name = packet(node)
        target = node.args[0]
        pure = getattr(torch.ops.aten, name.removesuffix("_"), None)
        overload = node.target._overloadname
        if (
            not name.endswith("_")
            or name[:-1] not in ALLOWED_PACKETS
            or pure is None
            or overload not in pure.overloads()
        ):
            return False
        if not isinstance(target, fx.Node) or target.op != "call_function" or _shares_memory(target):
            return False
        node.target = getattr(pure, overload)
        _replace_later_uses(target, node)
    return True


def _shares_memory(node: fx.Node) -> bool:
    return any(is_view(other) for other in (node, *node.users))


def _replace_later_uses(old: fx.Node, new: fx.Node) -> None:
    later = False
    for node in old.graph.nodes:
        if later and node in old.users:
            node.replace_input_with(old, new)
        later = later or node is new


def _check(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.op == "call_function":
            with telling(node):
                _refuse_state(node)
                resolve(op_name(node.target))


def _refuse_state(node: fx.Node) -> None:
    """A write that is left is one to a buffer, at the end of the program."""
    written = node.args[0] if is_mutating(node) and node.args else None
    if isinstance(written, fx.Node) and written.op == "get_attr":
        name = str(written.target).removeprefix("model.")
        raise UnsupportedOperatorError(
            f"operator {op_name(node.target)} writes to the model's buffer {name!r}, but stages keep nothing between "
            "requests: compute it from the inputs"
        )
