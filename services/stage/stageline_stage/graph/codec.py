"""A block graph and its JSON form, version 1 (docs/model-format.md). Reading is strict and never runs anything."""

from __future__ import annotations

import json
import keyword
import math
import re
from dataclasses import dataclass, field
from typing import Any

import torch

from stageline.blocks import MAX_RANK
from stageline.dtypes import ITEMSIZE
from stageline.errors import ManifestError
from stageline.fields import SHA256, Fields
from stageline.manifest import canonical_json
from stageline_stage.graph.ops import check_call

FORMAT = 1
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
MAX_GRAPH_BYTES, MAX_NODES, MAX_LIST, MAX_DEPTH, MAX_TEXT = 16 << 20, 50_000, 4096, 8, 200
RESERVED = frozenset({"self", "torch", "device", "inf", "nan", "math", "operator", "fx_pytree", "pytree"})

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ITEMSIZE}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_FORMATS = ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
MEMORY_FORMATS: dict[str, torch.memory_format] = {name: getattr(torch, name) for name in _FORMATS}
_FORMAT_NAMES = {form: name for name, form in MEMORY_FORMATS.items()}
_SPECIAL_FLOATS = ("inf", "-inf", "nan")


@dataclass(frozen=True)
class Ref:
    """A use of an input, a tensor or an earlier node's result."""

    name: str


@dataclass(frozen=True)
class HereDevice:
    """Stands for the device that the stage runs on, wherever a graph names a device."""


@dataclass(frozen=True)
class Call:
    """One node: the result of `op` on the arguments gets `name`."""

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class BlockGraph:
    """A straight-line program. `tensors` maps the name of each weight to its SHA-256.

    `orders` holds the memory order of the inputs that are not row-major: their axes from the outermost in
    memory to the innermost. Values travel row-major, so a stage restores the order on arrival; kernels then see
    the strides that they saw in the unsplit model, and give the same bits.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    calls: tuple[Call, ...]
    tensors: dict[str, str]
    orders: dict[str, tuple[int, ...]] = field(default_factory=dict)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in manifests; `ManifestError` for one outside the list."""
    name = _DTYPE_NAMES.get(dtype)
    if name is None:
        raise ManifestError(f"dtype {dtype} is not supported; use one of {', '.join(DTYPES)}")
    return name


def encode(graph: BlockGraph) -> bytes:
    """The canonical JSON of a graph: equal graphs have equal bytes."""
    return canonical_json(
        {
            "format": FORMAT,
            "inputs": list(graph.inputs),
            "outputs": list(graph.outputs),
            "orders": {name: list(order) for name, order in graph.orders.items()},
            "tensors": graph.tensors,
            "nodes": [call_json(call) for call in graph.calls],
        }
    )


def call_json(call: Call) -> dict[str, Any]:
    """One node as JSON; `ManifestError` for an argument that has no form there."""
    return {
        "name": call.name,
        "op": call.op,
        "args": [_pack(arg) for arg in call.args],
        "kwargs": {key: _pack(arg) for key, arg in call.kwargs.items()},
    }


def _pack(arg: Any) -> Any:
    if arg is None or isinstance(arg, bool | int | str):
        return arg
    if isinstance(arg, float):
        return arg if math.isfinite(arg) else {"float": repr(arg)}
    if isinstance(arg, list | tuple):
        return [_pack(item) for item in arg]
    if isinstance(arg, Ref):
        return {"ref": arg.name}
    if isinstance(arg, torch.dtype):
        return {"dtype": dtype_name(arg)}
    if isinstance(arg, torch.memory_format):
        return {"memory_format": _FORMAT_NAMES[arg]}
    if isinstance(arg, torch.device | HereDevice):
        return {"device": "here"}
    if arg is torch.strided:
        return {"layout": "strided"}
    raise ManifestError(f"an argument of type {type(arg).__name__} has no form in a block graph")


def decode(data: bytes) -> BlockGraph:
    """Read a graph and check all of it: names, operators, arguments, and that every use follows its definition.

    Raises `ManifestError`, or `UnsupportedOperatorError` for an operator outside the allow-list.
    """
    fields = _parse(data)
    defined: set[str] = set()
    inputs = tuple(_define(name, defined, "graph.inputs") for name in fields.array("inputs", MAX_LIST))
    orders = _orders(fields, inputs)
    tensors = fields.mapping("tensors", MAX_NODES)
    for name, sha in tensors.items():
        _define(name, defined, "graph.tensors")
        if not isinstance(sha, str) or not SHA256.fullmatch(sha):
            raise fields.bad(f"tensors.{name}", "a SHA-256 of 64 lower-case hex digits")
    nodes = fields.array("nodes", MAX_NODES)
    calls = tuple(_call(node, f"graph.nodes[{i}]", defined) for i, node in enumerate(nodes))
    outputs = tuple(fields.array("outputs", MAX_LIST))
    if any(not isinstance(name, str) or name not in defined or name in tensors for name in outputs):
        raise fields.bad("outputs", "a list of names of inputs and nodes")
    return BlockGraph(inputs, outputs, calls, dict(tensors), orders)


def _orders(fields: Fields, inputs: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    orders = fields.mapping("orders", MAX_LIST)
    for name, order in orders.items():
        axes = isinstance(order, list) and len(order) <= MAX_RANK and all(type(axis) is int for axis in order)
        if name not in inputs or not axes or sorted(order) != list(range(len(order))):
            raise fields.bad(f"orders.{name:.80}", "a permutation of the axes of an input")
    return {name: tuple(order) for name, order in orders.items()}


def _parse(data: bytes) -> Fields:
    if len(data) > MAX_GRAPH_BYTES:
        raise ManifestError(f"block graph is larger than {MAX_GRAPH_BYTES} bytes")
    try:
        obj = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError("block graph is not JSON") from error
    version = obj.get("format") if isinstance(obj, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ManifestError(f"block graph has format {version}, but this Stageline reads up to {FORMAT}: upgrade it")
    fields = Fields(obj, "graph", ("format", "inputs", "orders", "outputs", "tensors", "nodes"))
    fields.integer("format", FORMAT, FORMAT)
    return fields


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def _define(name: object, defined: set[str], where: str) -> str:
    if not isinstance(name, str) or not IDENTIFIER.fullmatch(name):
        raise ManifestError(f"{where} has a name that is no identifier: {name!r:.80}")
    if keyword.iskeyword(name) or name in RESERVED or name.startswith("__"):
        raise ManifestError(f"{where} has the reserved name {name!r}")
    if name in defined:
        raise ManifestError(f"{where} defines {name!r} a second time")
    defined.add(name)
    return name


def _call(obj: object, where: str, defined: set[str]) -> Call:
    fields = Fields(obj, where, ("name", "op", "args", "kwargs"))
    op = fields.text("op", r"[A-Za-z0-9_.]+", 120)
    args = tuple(_unpack(arg, where, defined, 0) for arg in fields.array("args", 64))
    kwargs = {key: _unpack(arg, where, defined, 0) for key, arg in fields.mapping("kwargs", 64).items()}
    check_call(op, args, kwargs)
    return Call(_define(fields.raw("name"), defined, where), op, args, kwargs)


def _unpack(arg: Any, where: str, defined: set[str], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ManifestError(f"{where} nests its arguments deeper than {MAX_DEPTH}")
    if arg is None or isinstance(arg, bool | float):
        return arg
    if isinstance(arg, int) and -(2**63) <= arg < 2**63:
        return arg
    if isinstance(arg, str) and len(arg) <= MAX_TEXT:
        return arg
    if isinstance(arg, list) and len(arg) <= MAX_LIST:
        return [_unpack(item, where, defined, depth + 1) for item in arg]
    if isinstance(arg, dict) and len(arg) == 1:
        return _tagged(*next(iter(arg.items())), where, defined)
    raise ManifestError(f"{where} has an argument that is malformed: {arg!r:.80}")


def _tagged(tag: str, value: Any, where: str, defined: set[str]) -> Any:
    if isinstance(value, str):
        if tag == "ref" and value in defined:
            return Ref(value)
        if tag == "dtype" and value in DTYPES:
            return DTYPES[value]
        if tag == "memory_format" and value in MEMORY_FORMATS:
            return MEMORY_FORMATS[value]
        if tag == "float" and value in _SPECIAL_FLOATS:
            return float(value)
        if (tag, value) == ("layout", "strided"):
            return torch.strided
        if (tag, value) == ("device", "here"):
            return HereDevice()
    raise ManifestError(f"{where} has an argument that is malformed or used before it is defined: {value!r:.80}")
