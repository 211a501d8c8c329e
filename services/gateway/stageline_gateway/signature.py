"""Does a request match its model's signature, and a result its request? Shapes and dtypes only, never values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from stageline.data import MAX_BATCH_ITEMS, Tensor, Value
from stageline.dims import dim_size
from stageline.errors import InvalidInputError, ManifestError
from stageline.plan import DimRange, Signature, ValueSpec
from stageline.protocol import TensorSpec

BATCH = "batch"


def check_inputs(signature: Signature, given: Sequence[TensorSpec]) -> tuple[list[int], dict[str, int]]:
    """Where in `given` each input of the signature is, and the size of each dynamic dimension.

    Raises `InvalidInputError` that names the input, what was expected and what came.
    """
    order = _by_name(signature, given)
    sizes: dict[str, int] = {}
    pairs = [(want, given[i]) for want, i in zip(signature.inputs, order, strict=True)]
    for want, have in pairs:
        if have.dtype != want.dtype:
            raise InvalidInputError(f"input {want.name!r} must be {want.dtype}, got {have.dtype}")
        if len(have.shape) != len(want.dims):
            raise _mismatch(want, have)
        for dim, size in zip(want.dims, have.shape, strict=True):
            if isinstance(dim, str) and dim.isidentifier() and sizes.setdefault(dim, size) != size:
                raise InvalidInputError(
                    f"input {want.name!r} has {dim} {size}, but another input has {dim} {sizes[dim]}: make them equal"
                )
    for want, have in pairs:
        if any(not _fits(dim, size, sizes) for dim, size in zip(want.dims, have.shape, strict=True)):
            raise _mismatch(want, have)
    for name, size in sizes.items():
        _check_range(name, size, signature.dims.get(name))
    return order, sizes


def batchable(signature: Signature) -> bool:
    """Whether requests can share a batch: dimension 0 of everything is the batch, and nothing else depends on it."""
    inputs = all(v.dims and v.dims[0] == BATCH for v in signature.inputs)
    rest = [d for v in (*signature.inputs, *signature.outputs) for d in v.dims[v.dims[:1] == (BATCH,) :]]
    return bool(signature.inputs) and inputs and not any(isinstance(d, str) and BATCH in d for d in rest)


def divisible(signature: Signature) -> bool:
    """Whether the answers of a request's parts can be joined: every output has the batch, too."""
    return batchable(signature) and all(v.dims[:1] == (BATCH,) for v in signature.outputs)


def largest_batch(signature: Signature, limit: int, sizes: Mapping[str, int]) -> int:
    """Items that may share a batch: what takes no more memory than `limit` items of nominal size, which is planned for.

    0 if not even one fits. Memory is taken to grow with the largest input or output.
    """
    known = signature.dims.get(BATCH)
    most = min(limit, known.maximum if known else limit, MAX_BATCH_ITEMS)
    if not oversize(signature, sizes):
        return max(1, most)
    nominal = {name: dim.nominal for name, dim in signature.dims.items()}
    for value in (*signature.inputs, *signature.outputs):
        have, usual = (_elements(value, {**chosen, BATCH: 1}) for chosen in (sizes, nominal))
        if have > usual > 0:
            most = min(most, limit * usual // have)
    return most


def oversize(signature: Signature, sizes: Mapping[str, int]) -> dict[str, DimRange]:
    """The dynamic dimensions, other than the batch, that are larger than nominal."""
    found = {name: signature.dims[name] for name in sizes if name != BATCH and name in signature.dims}
    return {name: dim for name, dim in found.items() if sizes[name] > dim.nominal}


def check_outputs(signature: Signature, values: Sequence[Value], sizes: Mapping[str, int]) -> str:
    """Why `values` cannot be the outputs at these dynamic sizes; empty if they can."""
    if len(values) != len(signature.outputs):
        return f"{len(values)} outputs, expected {len(signature.outputs)}"
    for want, have in zip(signature.outputs, values, strict=True):
        if not isinstance(have, Tensor) or have.codec or have.dtype != want.dtype or len(have.shape) != len(want.dims):
            return f"output {want.name!r} is not {want.dtype} of rank {len(want.dims)}"
        if any(not _fits(dim, size, sizes) for dim, size in zip(want.dims, have.shape, strict=True)):
            return f"output {want.name!r} has shape {have.shape}, expected {want.dims} at {dict(sizes)}"
    return ""


def _by_name(signature: Signature, given: Sequence[TensorSpec]) -> list[int]:
    places = {spec.name: i for i, spec in enumerate(given)}
    wanted = [want.name for want in signature.inputs]
    if len(places) != len(given) or set(places) != set(wanted):
        names = ", ".join(repr(spec.name) for spec in given) or "none"
        raise InvalidInputError(f"the model's inputs are {', '.join(map(repr, wanted))}, got {names:.200}")
    return [places[name] for name in wanted]


def _elements(value: ValueSpec, sizes: Mapping[str, int]) -> int:
    try:
        return prod(dim_size(dim, sizes) for dim in value.dims)
    except ManifestError:
        return 0  # it depends on a size that only the model knows


def _fits(dim: int | str, size: int, sizes: Mapping[str, int]) -> bool:
    try:
        return dim_size(dim, sizes) == size
    except ManifestError:
        return True  # it depends on a size that only the model knows


def _check_range(name: str, size: int, known: DimRange | None) -> None:
    low, high = (known.minimum, known.maximum) if known else (1, MAX_BATCH_ITEMS if name == BATCH else 1 << 62)
    if name == BATCH:
        low, high = max(low, 1), min(high, MAX_BATCH_ITEMS)
    if not low <= size <= high:
        raise InvalidInputError(f"{name} must be from {low} to {high}, got {size}")


def _mismatch(want: ValueSpec, have: TensorSpec) -> InvalidInputError:
    expected = ", ".join(map(str, want.dims))
    return InvalidInputError(f"input {want.name!r} must have shape ({expected}), got {tuple(have.shape)}")
