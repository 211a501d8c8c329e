"""OpenVINO (https://docs.openvino.ai), on x86-64 and arm64: extra `openvino`.

The stage is exported again with dynamic sizes, its operators are broken down to those that OpenVINO's reader of torch
graphs knows, and written as OpenVINO's own form: `stage.xml` and, mapped when it is loaded, `stage.bin`.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import fx

from stageline.blocks import ValueSpec
from stageline_stage.backends.base import Source, UnsuitableError
from stageline_stage.executor.device import StageCall

NAME, INPUTS = "stage.xml", "inputs.json"
"""The graph; what it takes of the stage's inputs (`_Inputs`)."""

_TELEMETRY = "openvino_telemetry"
_INPUT_DTYPES = frozenset({"float32", "int64", "int32", "bool", "uint8", "int8", "float64", "float16"})
"""Those that numpy has, too."""

_SCALARS: dict[str, Any] = {"int": int, "float": float, "bool": bool}


class OpenVino:
    """One stream with as many threads as the executor has, in the precision that was asked for and no other."""

    name = "openvino"
    precisions: tuple[str, ...] = ("f32",)
    dynamic = True
    needs_torch = False

    def available(self) -> str:
        """Whether the package is installed; it is not imported."""
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed: pip install 'stageline[openvino]'"
        return ""

    def prepare(self) -> None:
        """Import it."""
        _import()

    def version(self) -> str:
        """OpenVINO's and torch's, whose export comes before."""
        try:
            return f"{version('openvino')} torch {torch.__version__}"
        except PackageNotFoundError:
            return "0"

    def compile(self, source: Source, precision: str, folder: Path) -> None:
        """Convert and save; weights keep their precision. Takes twice the weights' memory for a while."""
        odd = next((v for v in source.inputs if v.kind == "tensor" and v.dtype not in _INPUT_DTYPES), None)
        if odd is not None:
            raise UnsuitableError(f"input {odd.name} is of {odd.dtype}, which cannot be handed to it")
        model, inputs = _convert(source)
        (folder / INPUTS).write_bytes(msgspec.json.encode(inputs))
        _import().save_model(model, str(folder / NAME), compress_to_fp16=False)

    def load(self, folder: Path, outputs: Sequence[ValueSpec], precision: str, threads: int) -> StageCall:
        """Map the weights and compile for this CPU."""
        core = _import().Core()
        settings = {
            "INFERENCE_PRECISION_HINT": precision,  # its own choice would be bf16 where the CPU has that
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(max(1, threads)),
            "ENABLE_CPU_PINNING": "NO",  # two workers of a box would share a core
        }
        request = core.compile_model(str(folder / NAME), "CPU", settings).create_infer_request()
        return _Call(request, msgspec.json.decode((folder / INPUTS).read_bytes(), type=_Inputs), outputs)


class _Inputs(msgspec.Struct, frozen=True):
    """By their numbers among the stage's inputs.

    `taken`: those that the graph takes, in its order; what nothing depends on is gone. `sizes`: numbers that the graph
    takes from (tensor, axis) instead.
    """

    taken: tuple[int, ...]
    sizes: dict[int, tuple[int, int]]


class _Call:
    """A stage's inputs to OpenVINO, its outputs back; those are copies."""

    def __init__(self, request: Any, inputs: _Inputs, outputs: Sequence[ValueSpec]) -> None:
        self._infer, self._taken = request.infer, inputs.taken
        self._sizes = [(number, tensor, axis) for number, (tensor, axis) in inputs.sizes.items()]
        self._scalars = [_SCALARS.get(value.kind) for value in outputs]

    def __call__(self, *inputs: Any) -> list[Any]:
        for number, tensor, axis in self._sizes:
            if inputs[number] != inputs[tensor].shape[axis]:
                raise UnsuitableError("a number among the inputs is not the size that it was taken for")
        taken = [inputs[number] for number in self._taken]
        given = [x.numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in taken]
        results = self._infer(given, share_inputs=True).values()
        return [
            torch.from_numpy(value) if scalar is None else scalar(value)
            for value, scalar in zip(results, self._scalars, strict=True)
        ]


def _import() -> Any:
    """The package, without the telemetry that it would send to its maker whenever it is imported."""
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # import then fails, which it copes with
    import openvino

    return openvino


def _convert(source: Source) -> tuple[Any, _Inputs]:
    """OpenVINO's model, and what it takes of the stage's inputs."""
    ov = _import()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from torch.export import Dim, export

    sample = source.samples[0]
    sizes = _sizes(source, sample.inputs)
    module = _with_sizes_from_tensors(source, sizes)
    shapes = tuple(
        {i: Dim.STATIC if isinstance(d, int) else Dim.AUTO for i, d in enumerate(v.dims)}
        if v.kind == "tensor" else None
        for v in source.inputs
    )  # fmt: skip
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = export(module, sample.inputs, dynamic_shapes=shapes, strict=False)
        decoder = TorchFXPythonDecoder.from_exported_program(program)
    front_end = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    places = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    taken = [next((i for i, name in enumerate(places) if name in port.get_names()), -1) for port in model.inputs]
    if -1 in taken or len(model.outputs) != len(source.outputs):
        raise UnsuitableError("the converted stage has other inputs or outputs than the stage")
    for port, number in zip(model.inputs, taken, strict=True):
        node, value = port.get_node(), source.inputs[number]
        node.set_element_type(ov.Type(np.dtype(value.dtype)))
        node.set_partial_shape(ov.PartialShape(list(value.shape)))
    model.validate_nodes_and_infer_types()
    return model, _Inputs(tuple(taken), sizes)


def _sizes(source: Source, inputs: Sequence[Any]) -> dict[int, tuple[int, int]]:
    """The numbers among the inputs that stand for a size of a tensor among them, with that tensor and the axis."""
    places = {
        size: (number, axis)
        for number, (spec, value) in enumerate(zip(source.inputs, inputs, strict=True))
        if spec.kind == "tensor"
        for axis, (dim, size) in enumerate(zip(spec.dims, value.shape, strict=True))
        if isinstance(dim, str)
    }
    kinds = enumerate(zip(source.inputs, inputs, strict=True))
    return {number: places[value] for number, (spec, value) in kinds if spec.kind == "int" and value in places}


def _with_sizes_from_tensors(source: Source, sizes: Mapping[int, tuple[int, int]]) -> fx.GraphModule:
    """The stage with those numbers taken from the tensors.

    Export could not know that they are equal, and would take the sizes of the sample for those of every batch.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(source.module.graph, {}))
    places = [node for node in graph.nodes if node.op == "placeholder"]
    for number, (tensor, axis) in sizes.items():
        with graph.inserting_after(places[-1]):
            size = graph.call_function(torch.ops.aten.sym_size.int, (places[tensor], axis))
        places[number].replace_all_uses_with(size)
    return fx.GraphModule(source.module, graph)
