"""`module:factory`: a Python function of the user's that builds a model.

The function takes no arguments and returns one of

- `(module, Signature)`: full control over inputs and dynamic dimensions;
- `(module, example_inputs)`: a mapping from the names of `forward`'s parameters to tensors, or a tuple of tensors
  in their order; axis 0 of every input becomes the batch;
- a module with an attribute `example_inputs` of that form.

`forward` returns a tensor, a tuple or a mapping of tensors; a mapping's keys become the names of the outputs.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stageline.errors import ModelImportError, StagelineError
from stageline_stage.importer.export import Signature
from stageline_stage.importer.places import of_error

_CONTRACT = "return (module, example_inputs), where example_inputs maps parameter names of forward to tensors"


def load_factory(source: str) -> tuple[nn.Module, Signature]:
    """Import `module`, call `factory`, and read what it gives; `ModelImportError` says what is wrong."""
    module_name, function_name = source.split(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
        built = factory()
    except StagelineError:
        raise
    except Exception as error:  # the user's code may raise anything
        place = of_error(error).line
        where = f" ({place})" if place else ""
        raise ModelImportError(f"{source} failed{where}: {type(error).__name__}: {error}") from error
    return _read(built, source)


def _read(built: Any, source: str) -> tuple[nn.Module, Signature]:
    module, inputs = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(module, nn.Module):
        raise ModelImportError(f"{source} gave {type(module).__name__}, not a torch.nn.Module: {_CONTRACT}")
    inputs = getattr(module, "example_inputs", None) if inputs is None else inputs
    if isinstance(inputs, Signature):
        return module, inputs
    named = _by_name(module, inputs, source)
    if any(tensor.dim() == 0 for tensor in named.values()):
        raise ModelImportError(f"{source}: every example input needs a batch axis, axis 0")
    return module, Signature.batched({name: _at_least_two(tensor) for name, tensor in named.items()})


def _by_name(module: nn.Module, inputs: Any, source: str) -> dict[str, torch.Tensor]:
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if isinstance(inputs, tuple | list):
        names = list(inspect.signature(module.forward).parameters)
        inputs = dict(zip(names, inputs, strict=False))
    if not isinstance(inputs, Mapping) or not inputs:
        raise ModelImportError(f"{source} gave no example inputs: {_CONTRACT}")
    if not all(isinstance(value, torch.Tensor) for value in inputs.values()):
        raise ModelImportError(f"{source} gave example inputs that are not all tensors: {_CONTRACT}")
    return dict(inputs)


def _at_least_two(tensor: torch.Tensor) -> torch.Tensor:
    """Export takes a batch of one for a constant, so an example of one item is doubled."""
    return torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor
