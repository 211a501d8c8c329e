"""From an exported program to a manifest and its blobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from stageline.blobs import BlobStore
from stageline.errors import ModelImportError
from stageline.manifest import BlockSpec, DimRange, ModelManifest, TensorRef, Tolerance, ValueSpec
from stageline_stage.graph.codec import BlockGraph, Call, Ref, call_json, decode, dtype_name, encode
from stageline_stage.graph.ops import check_call, op_name
from stageline_stage.importer.clean import plain_graph
from stageline_stage.importer.cut import Cutter
from stageline_stage.importer.export import Signature, export_module
from stageline_stage.importer.flops import HEAVY
from stageline_stage.importer.naming import block_names, input_names, output_names
from stageline_stage.importer.places import module_path, telling
from stageline_stage.importer.shapes import Symbols, memory_order, symbol_names
from stageline_stage.importer.views import packet
from stageline_stage.importer.workspace import peak_bytes
from stageline_stage.tensorfile import tensor_bytes

Progress = Callable[[str, float], None]


def no_progress(step: str, fraction: float) -> None:
    """Ignore progress."""


def import_module(
    module: nn.Module,
    signature: Signature,
    *,
    name: str,
    store: BlobStore,
    source: str = "",
    tolerance: Tolerance | None = None,
    progress: Progress = no_progress,
) -> ModelManifest:
    """Export `module`, cut it and write its blobs to `store`.

    Raises `ModelImportError`, `UnsupportedOperatorError`, `StoreError`.
    """
    progress("exporting", 0.1)
    program = export_module(module, signature)
    return import_program(
        program,
        signature.dynamic,
        signature.dims,
        name=name,
        store=store,
        source=source,
        tolerance=tolerance,
        progress=progress,
    )


def import_program(
    program: ExportedProgram,
    dynamic: Mapping[str, Mapping[int, str]],
    dims: Mapping[str, DimRange],
    *,
    name: str,
    store: BlobStore,
    source: str = "",
    tolerance: Tolerance | None = None,
    progress: Progress = no_progress,
) -> ModelManifest:
    """As `import_module`, for a program that is already exported."""
    progress("cutting", 0.4)
    module = plain_graph(program)
    nominal = {dim: 1 if dim == "batch" else size.nominal for dim, size in dims.items()}
    inputs = input_names(program)
    symbols = Symbols(symbol_names(module.graph, inputs, dynamic), nominal)
    blocks = _Slicer(module, symbols, inputs, output_names(program), store).blocks(progress)
    manifest = ModelManifest(
        name=name,
        inputs=blocks[0].inputs,
        outputs=blocks[-1].outputs,
        blocks=blocks,
        dims=dict(dims),
        tolerance=tolerance or Tolerance(),
        source=source,
        torch_version=torch.__version__,
    )
    progress("done", 1.0)
    return manifest


@dataclass(frozen=True)
class _Piece:
    """Calls [start, end) of the graph and the values that cross its two ends."""

    calls: Sequence[fx.Node]
    inputs: Sequence[fx.Node]
    outputs: Sequence[fx.Node]


class _Slicer:
    """Cuts a graph into pieces and stores each: one JSON graph and one file per tensor."""

    def __init__(
        self,
        module: fx.GraphModule,
        symbols: Symbols,
        inputs: Sequence[str],
        outputs: Sequence[str],
        store: BlobStore,
    ) -> None:
        self._module = module
        self._symbols = symbols
        placeholders = module.graph.find_nodes(op="placeholder")
        self._input_names = {node.name: name for node, name in zip(placeholders, inputs, strict=True)}
        self._output_names = outputs
        self._store = store
        self._cutter = Cutter(module.graph, symbols)
        self._stored: dict[str, TensorRef] = {}

    def blocks(self, progress: Progress) -> tuple[BlockSpec, ...]:
        pieces = self._pieces()
        names = block_names([[module_path(node) for node in _heavy_or_all(piece.calls)] for piece in pieces])
        blocks = []
        for i, (piece, name) in enumerate(zip(pieces, names, strict=True)):
            progress("storing weights", 0.4 + 0.6 * i / len(pieces))
            blocks.append(self._block(piece, name, is_last=i == len(pieces) - 1))
        return tuple(blocks)

    def _pieces(self) -> list[_Piece]:
        cutter, graph = self._cutter, self._module.graph
        outputs = _flat_outputs(graph, self._output_names)
        ends = [*cutter.points(), len(cutter.calls)]
        pieces, start = [], 0
        crossing: Sequence[fx.Node] = graph.find_nodes(op="placeholder", sort=True)
        for end in ends:
            after = outputs if end == len(cutter.calls) else cutter.live(end)
            pieces.append(_Piece(cutter.calls_between(start, end), crossing, after))
            crossing, start = after, end
        return pieces

    def _block(self, piece: _Piece, name: str, *, is_last: bool) -> BlockSpec:
        weights = list(dict.fromkeys(n for c in piece.calls for n in c.all_input_nodes if n.op == "get_attr"))
        refs = {node.name: self._tensor(node) for node in weights}
        graph = BlockGraph(
            inputs=tuple(node.name for node in piece.inputs),
            outputs=tuple(node.name for node in piece.outputs),
            calls=tuple(_call(node) for node in piece.calls),
            tensors={node_name: ref.sha256 for node_name, ref in refs.items()},
            orders=_orders(piece.inputs),
        )
        data = encode(graph)
        decode(data)
        out_names = self._output_names if is_last else [self._name(node) for node in piece.outputs]
        flops = self._cutter.flops_of(piece.calls)
        return BlockSpec(
            name=name,
            graph=self._store.put_bytes(data),
            graph_bytes=len(data),
            tensors=tuple({ref.sha256: ref for ref in refs.values()}.values()),
            inputs=tuple(self._spec(self._name(node), node) for node in piece.inputs),
            outputs=tuple(self._spec(n, node) for n, node in zip(out_names, piece.outputs, strict=True)),
            flops=flops,
            workspace_bytes=peak_bytes(piece.inputs, piece.calls, piece.outputs, self._symbols),
        )

    def _name(self, node: fx.Node) -> str:
        return self._input_names.get(node.name, node.name)

    def _spec(self, name: str, node: fx.Node) -> ValueSpec:
        with telling(node):
            return self._symbols.spec(name, node.meta.get("val"))

    def _tensor(self, node: fx.Node) -> TensorRef:
        if node.target not in self._stored:
            tensor: torch.Tensor = attrgetter(str(node.target))(self._module)
            data = tensor_bytes(tensor)
            nbytes = tensor.numel() * tensor.element_size()
            name = str(node.target).removeprefix("model.")
            sha = self._store.put_bytes(data)
            self._stored[str(node.target)] = TensorRef(
                name, sha, dtype_name(tensor.dtype), tuple(tensor.shape), nbytes, len(data)
            )
        return self._stored[str(node.target)]


def _orders(inputs: Sequence[fx.Node]) -> dict[str, tuple[int, ...]]:
    tensors = {node.name: node.meta.get("val") for node in inputs if node.op != "placeholder"}
    orders = {name: memory_order(value) for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return {name: order for name, order in orders.items() if order is not None and list(order) != sorted(order)}


def _heavy_or_all(calls: Sequence[fx.Node]) -> list[fx.Node]:
    return [node for node in calls if packet(node) in HEAVY] or list(calls)


def _flat_outputs(graph: fx.Graph, names: Sequence[str]) -> list[fx.Node]:
    (output,) = graph.find_nodes(op="output")
    flat = pytree.tree_leaves(output.args[0])
    for name, value in zip(names, flat, strict=False):
        if not isinstance(value, fx.Node) or value.op == "get_attr":
            raise ModelImportError(f"output {name!r} of the model is a constant; return only what the inputs determine")
    return flat


def _call(node: fx.Node) -> Call:
    args = fx.map_arg(node.args, _ref)
    kwargs = fx.map_arg(node.kwargs, _ref)
    call = Call(node.name, op_name(node.target), tuple(args), dict(kwargs))
    with telling(node):
        check_call(call.op, call.args, call.kwargs)
        call_json(call)
    return call


def _ref(node: fx.Node) -> Any:
    return Ref(node.name)
