"""From block graphs back to something that runs: several consecutive blocks become one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from stageline.errors import BlobMissingError, ManifestError
from stageline_stage.graph.codec import BlockGraph, Call, HereDevice, Ref, decode
from stageline_stage.graph.ops import resolve

aten = torch.ops.aten


def load_stage(
    graphs: Sequence[bytes],
    tensors: Mapping[str, torch.Tensor],
    device: torch.device | str = "cpu",
) -> fx.GraphModule:
    """Join consecutive blocks into one module: `stage(*inputs) -> tuple(outputs)`.

    `graphs` are the JSON graphs in order, `tensors` the weights by SHA-256; weights move to `device`, and so does
    whatever the graphs create. Inputs and outputs are tensors and numbers, in the order of the manifest. Run
    it under `torch.inference_mode()`. Raises `ManifestError`, `UnsupportedOperatorError`, `BlobMissingError`.
    """
    return join([decode(graph) for graph in graphs], tensors, torch.device(device))


def join(blocks: Sequence[BlockGraph], tensors: Mapping[str, torch.Tensor], device: torch.device) -> fx.GraphModule:
    """As `load_stage`, for graphs already decoded."""
    if not blocks:
        raise ManifestError("a stage needs at least one block")
    builder = _Builder(tensors, device)
    placeholders = {name: builder.graph.placeholder(name) for name in blocks[0].inputs}
    crossing = [builder.restride(node, blocks[0].orders.get(name)) for name, node in placeholders.items()]
    for i, block in enumerate(blocks):
        if len(block.inputs) != len(crossing):
            raise ManifestError(
                f"block {i} of the stage takes {len(block.inputs)} values, but the one before gives {len(crossing)}"
            )
        crossing = builder.add(block, crossing)
    builder.graph.output(tuple(crossing))
    return fx.GraphModule(builder.root, builder.graph, class_name="Stage")


class _Builder:
    """Appends blocks to one fx graph, sharing a weight that several blocks use."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
        self.graph = fx.Graph()
        self.root = torch.nn.Module()
        self._tensors = tensors
        self._device = device
        self._weights: dict[str, fx.Node] = {}
        self._made: dict[str, fx.Node] = {}

    def add(self, block: BlockGraph, inputs: Sequence[fx.Node]) -> list[fx.Node]:
        """Append a block whose inputs are the given nodes; returns the nodes of its outputs."""
        env = dict(zip(block.inputs, inputs, strict=True))
        for name, sha in block.tensors.items():
            env[name] = self._weight(sha)
        for call in block.calls:
            env[call.name] = self._append(call, env)
        return [env[name] for name in block.outputs]

    def restride(self, node: fx.Node, order: tuple[int, ...] | None) -> fx.Node:
        """Append what lays a tensor out in the given order of axes; None leaves it alone."""
        if order is None:
            return node
        inverse = sorted(range(len(order)), key=order.__getitem__)
        outermost_first = self.graph.call_function(aten.permute.default, (node, list(order)))
        packed = self.graph.call_function(aten.contiguous.default, (outermost_first,))
        return self.graph.call_function(aten.permute.default, (packed, inverse))

    def _weight(self, sha: str) -> fx.Node:
        if sha not in self._weights:
            if sha not in self._tensors:
                raise BlobMissingError(f"tensor {sha[:12]}… was not given to the stage: fetch it first")
            name = f"w{len(self._weights)}"
            self.root.register_buffer(name, self._tensors[sha].to(self._device))
            self._weights[sha] = self.graph.get_attr(name)
        return self._weights[sha]

    def _append(self, call: Call, env: Mapping[str, fx.Node]) -> fx.Node:
        args = tuple(self._bind(arg, env) for arg in call.args)
        kwargs = {key: self._bind(arg, env) for key, arg in call.kwargs.items()}
        # Blocks compute cheap values again rather than send them. All calls are pure, so once per stage is enough.
        key = repr((call.op, args, sorted(kwargs.items())))
        if key not in self._made:
            self._made[key] = self.graph.create_node("call_function", resolve(call.op), args, kwargs, name=call.name)
        return self._made[key]

    def _bind(self, arg: Any, env: Mapping[str, fx.Node]) -> Any:
        if isinstance(arg, Ref):
            return env[arg.name]
        if isinstance(arg, HereDevice):
            return self._device
        if isinstance(arg, list):
            return [self._bind(item, env) for item in arg]
        return arg
