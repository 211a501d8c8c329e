"""Inputs with which a compiled stage is compared with torch, made of nothing but its manifest and graph.

Real activations of the stages before are not at hand. Numbers are random but always the same; integers stay within
the tables that they look up; masks let everything pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from stageline.blocks import DimRange, ValueSpec
from stageline.errors import StagelineError
from stageline_stage.backends.base import Sample, UnsuitableError
from stageline_stage.executor.tensors import DTYPES

PRIMES = (3, 13, 7, 17, 5, 11, 19, 23)
MAX_GUESSES = 64
SEED = 20


def make(
    module: fx.GraphModule, inputs: Sequence[ValueSpec], outputs: Sequence[ValueSpec], dims: Mapping[str, DimRange]
) -> tuple[Sample, ...]:
    """Inputs of a stage at three choices of its dynamic sizes, the last of which are the nominal ones.

    What a number that crosses a cut stands for the manifest does not say; it is a size in nearly every model, so the
    dimensions are tried until the outputs have their shapes. Raises `UnsuitableError` when that never happens.
    """
    choices = sizes(dims)
    numbers = [value for value in inputs if value.kind != "tensor"]
    error = "its outputs have other shapes than its manifest says"
    for ones in (1, 0):  # an index of 1 may be one too many, a mask of 0 hides everything
        tensors = [_tensors(module, inputs, chosen, ones) for chosen in choices]
        for meaning in itertools.islice(_meanings(numbers, tuple(dims)), MAX_GUESSES):
            found = [
                Sample(tuple(_value(v, made, meaning, chosen) for v in inputs), chosen)
                for made, chosen in zip(tensors, choices, strict=True)
            ]
            try:
                if all(_fits(module(*one.inputs), outputs, one.dims) for one in found):
                    return tuple(found)
            except (RuntimeError, TypeError, ValueError, IndexError, StagelineError) as problem:
                error = type(problem).__name__
    raise UnsuitableError(f"no inputs can be made to try the stage with ({error})")


def sizes(dims: Mapping[str, DimRange]) -> list[dict[str, int]]:
    """Three choices of the dynamic sizes: different primes, the smallest for a batch of two, nominal ones."""
    taken: dict[str, int] = {}
    for name, dim in dims.items():
        fitting = [p for p in PRIMES if dim.min <= p <= dim.max and p not in taken.values()]
        taken[name] = fitting[0] if fitting else min(dim.max, max(dim.min, 2))
    small = {name: max(dim.min, min(dim.max, 2)) if name == "batch" else dim.min for name, dim in dims.items()}
    nominal = {name: dim.min if name == "batch" else dim.nominal for name, dim in dims.items()}
    return [taken, small, nominal]


def _meanings(numbers: Sequence[ValueSpec], dims: Sequence[str]) -> Iterator[dict[str, Any]]:
    kinds: dict[str, Sequence[Any]] = {"int": dims or (1,), "float": (1.0,), "bool": (True, False)}
    for values in itertools.product(*(kinds[value.kind] for value in numbers)):
        yield {value.name: chosen for value, chosen in zip(numbers, values, strict=True)}


def _value(
    spec: ValueSpec, tensors: Mapping[str, torch.Tensor], meaning: Mapping[str, Any], dims: Mapping[str, int]
) -> Any:
    if spec.kind == "tensor":
        return tensors[spec.name]
    meant = meaning[spec.name]
    return dims[meant] if isinstance(meant, str) else meant


def _tensors(
    module: fx.GraphModule, inputs: Sequence[ValueSpec], dims: Mapping[str, int], ones: int
) -> dict[str, torch.Tensor]:
    places = [node for node in module.graph.nodes if node.op == "placeholder"]
    generator = torch.Generator().manual_seed(SEED)
    return {
        spec.name: _tensor(spec, spec.sizes(dims), _rows(module, place) if ones else 0, ones, generator)
        for spec, place in zip(inputs, places, strict=True)
        if spec.kind == "tensor"
    }


def _tensor(spec: ValueSpec, shape: Sequence[int], rows: int, ones: int, generator: torch.Generator) -> torch.Tensor:
    dtype = DTYPES[spec.dtype]
    if dtype.is_floating_point:
        return torch.randn(tuple(shape), generator=generator).to(dtype)
    if dtype is torch.bool:
        return torch.ones(tuple(shape), dtype=dtype)
    if rows:
        return torch.randint(0, rows, tuple(shape), generator=generator).to(dtype)
    return torch.full(tuple(shape), ones, dtype=dtype)


def _rows(module: fx.GraphModule, place: fx.Node) -> int:
    """Rows of the smallest table that an input looks up, 0 if it looks up none."""
    tables = [
        module.get_buffer(str(table.target))
        for user in place.users
        if user.target is torch.ops.aten.embedding.default and user.args[1] is place
        if isinstance(table := user.args[0], fx.Node) and table.op == "get_attr"
    ]
    return min((int(table.shape[0]) for table in tables), default=0)


def _fits(values: Sequence[Any], specs: Sequence[ValueSpec], dims: Mapping[str, int]) -> bool:
    return all(
        isinstance(value, torch.Tensor) == (spec.kind == "tensor")
        and (spec.kind != "tensor" or tuple(value.shape) == spec.sizes(dims))
        for value, spec in zip(values, specs, strict=True)
    )
