"""One call to `torch.export`, with dynamic sizes named, and errors that say where the model resists."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from stageline.manifest import DimRange
from stageline_stage.importer.resistance import explain, quiet

MAX_BATCH = 256
BATCH = DimRange(1, MAX_BATCH, 1)


@dataclass(frozen=True)
class Signature:
    """How to call a model: example inputs by name, and which axes are dynamic.

    `dynamic[input][axis]` names the dimension ("batch", "sequence"); `dims` gives each its range. Example
    sizes of dynamic axes should be at least 2, because export takes 0 and 1 for constants.
    """

    inputs: Mapping[str, torch.Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    dims: Mapping[str, DimRange] = field(default_factory=lambda: {"batch": BATCH})

    @classmethod
    def batched(cls, inputs: Mapping[str, torch.Tensor], dims: Mapping[str, DimRange] | None = None) -> Signature:
        """The usual case: axis 0 of every input is the batch."""
        return cls(inputs, {name: {0: "batch"} for name in inputs}, dims or {"batch": BATCH})


class Named(nn.Module):
    """Calls a model with its inputs by name and gives its outputs by name: `{"logits": …}`.

    `inputs` are the names of the inputs, `outputs` those of the fields to keep of the model's result, in order;
    `options` are passed to every call.
    """

    def __init__(
        self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str], options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        fixed = dict(options or {})

        def forward(**given: torch.Tensor) -> dict[str, torch.Tensor]:
            result = model(**given, **fixed)
            return {name: result[name] for name in outputs}

        # Export names the graph's inputs after the parameters that it finds here.
        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in inputs]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        self.forward = forward


def export_module(module: nn.Module, signature: Signature) -> ExportedProgram:
    """Export `module` in eval mode; call the result's `.module()` with the inputs by name.

    Raises `ModelImportError` (`UnsupportedOperatorError` for an operator) with the place in the model where export
    gave up. What torch itself prints about it is shown only where TORCH_LOGS asks for it.
    """
    sizes = {name: Dim(name, min=dim.min, max=dim.max) for name, dim in signature.dims.items()}
    shapes: dict[str, Any] = {
        name: {axis: sizes[dim] for axis, dim in signature.dynamic.get(name, {}).items()} for name in signature.inputs
    }
    module.eval()

    def export() -> ExportedProgram:
        with torch.no_grad(), quiet():
            return torch.export.export(
                module, args=(), kwargs=dict(signature.inputs), dynamic_shapes=shapes, strict=False
            )

    try:
        return export()
    except Exception as error:  # export runs the model's own code, which may raise anything
        raise explain(error, module, export) from error


def unsplit(module: nn.Module, signature: Signature) -> nn.Module:
    """The exported program as one module, called with the inputs by name: what every split must equal.

    Compare in eager mode, under `torch.inference_mode()`, at the same batch size and number of threads.
    """
    program = export_module(module, signature)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program.module(check_guards=False)
