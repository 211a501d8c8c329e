"""The parts of a model manifest: values, tensors, blocks, ranges of sizes. `stageline.manifest` joins them.

`from_json` trusts nothing: whatever is malformed raises `ManifestError` naming the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from stageline.dims import MAX_EXPRESSION, Dim, dim_size
from stageline.dtypes import ITEMSIZE, itemsize
from stageline.errors import ConfigError
from stageline.fields import MAX_INT, Fields

KINDS = ("tensor", "int", "float", "bool")
SCALAR_DTYPE = {"int": "int64", "float": "float64", "bool": "bool"}
MAX_VALUES, MAX_TENSORS, MAX_RANK = 256, 65536, 16
MAX_BYTES = 1 << 50
"""Of a value, of a block's activations, of a model's weights: sums over thousands of blocks still fit 64 bits."""


@dataclass(frozen=True)
class ValueSpec:
    """A value that enters or leaves a block: a tensor, or a scalar (`kind` "int", "float", "bool").

    `dims` holds a number, a dynamic dimension's name or an expression over such names per axis.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...] = ()
    kind: str = "tensor"

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, -1 where dynamic."""
        return tuple(dim if isinstance(dim, int) else -1 for dim in self.dims)

    def sizes(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The shape when the dynamic dimensions have the given sizes."""
        return tuple(dim_size(dim, dims) for dim in self.dims)

    def nbytes(self, dims: Mapping[str, int]) -> int:
        """Bytes of the value when the dynamic dimensions have the given sizes; scalars count 8 at most."""
        return prod(self.sizes(dims)) * itemsize(self.dtype)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"name": self.name, "kind": self.kind, "dtype": self.dtype, "dims": list(self.dims)}

    @classmethod
    def from_json(cls, obj: object, where: str = "value") -> ValueSpec:
        """Read and check; `ManifestError` names the field at fault."""
        fields = Fields(obj, where, ("name", "kind", "dtype", "dims"))
        name, kind, dtype = fields.text("name", r".+", 128), fields.text("kind"), fields.text("dtype")
        if kind not in KINDS:
            raise fields.bad("kind", f"one of {', '.join(KINDS)}")
        if dtype not in ITEMSIZE or (kind != "tensor" and dtype != SCALAR_DTYPE[kind]):
            raise fields.bad("dtype", f"a dtype that suits a {kind}")
        dims = tuple(fields.array("dims", MAX_RANK if kind == "tensor" else 0))
        for dim in dims:
            is_size = isinstance(dim, int) and not isinstance(dim, bool) and 0 <= dim <= MAX_INT
            if not is_size and not (isinstance(dim, str) and 0 < len(dim) <= MAX_EXPRESSION):
                raise fields.bad("dims", "a list of sizes and expressions")
        return cls(name, dtype, dims, kind)


def read_values(fields: Fields, key: str) -> tuple[ValueSpec, ...]:
    """The list of values in field `key`, names distinct."""
    values = tuple(
        ValueSpec.from_json(item, f"{fields.where}.{key}[{i}]") for i, item in enumerate(fields.array(key, MAX_VALUES))
    )
    if len({value.name for value in values}) != len(values):
        raise fields.bad(key, "a list of values with distinct names")
    return values


@dataclass(frozen=True)
class TensorRef:
    """A tensor of a block, by content: `sha256` is the address of its safetensors file.

    `nbytes` are the bytes of the elements, `blob_bytes` those of the file; `name` is for people.
    """

    name: str
    sha256: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    blob_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "nbytes": self.nbytes,
            "blob_bytes": self.blob_bytes,
        }

    @classmethod
    def from_json(cls, obj: object, where: str = "tensor") -> TensorRef:
        """Read and check; `ManifestError` names the field at fault."""
        fields = Fields(obj, where, ("name", "sha256", "dtype", "shape", "nbytes", "blob_bytes"))
        dtype, shape = fields.text("dtype"), tuple(fields.array("shape", MAX_RANK))
        if dtype not in ITEMSIZE:
            raise fields.bad("dtype", f"one of {', '.join(ITEMSIZE)}")
        if any(isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_INT for size in shape):
            raise fields.bad("shape", "a list of sizes")
        nbytes = fields.integer("nbytes")
        if nbytes != prod(shape) * ITEMSIZE[dtype]:
            raise fields.bad("nbytes", f"{prod(shape) * ITEMSIZE[dtype]} for that dtype and shape")
        blob_bytes = fields.integer("blob_bytes", low=nbytes)
        return cls(fields.text("name"), fields.sha("sha256"), dtype, shape, nbytes, blob_bytes)


@dataclass(frozen=True)
class BlockSpec:
    """A piece of a model that runs on one node.

    `graph` is the SHA-256 of its JSON graph (`graph_bytes` long). `inputs` and `outputs` are all the values
    that cross the cuts before and after it, in order; one that a later block needs passes through. `flops`
    are per item at nominal dimensions, `workspace_bytes` an estimate of the activations alive at once.
    """

    name: str
    graph: str
    graph_bytes: int
    tensors: tuple[TensorRef, ...]
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    flops: int
    workspace_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of the distinct tensors of this block."""
        return sum({tensor.sha256: tensor.nbytes for tensor in self.tensors}.values())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "name": self.name,
            "graph": self.graph,
            "graph_bytes": self.graph_bytes,
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "inputs": [value.to_json() for value in self.inputs],
            "outputs": [value.to_json() for value in self.outputs],
            "flops": self.flops,
            "workspace_bytes": self.workspace_bytes,
        }

    @classmethod
    def from_json(cls, obj: object, where: str = "block") -> BlockSpec:
        """Read and check; `ManifestError` names the field at fault."""
        keys = ("name", "graph", "graph_bytes", "tensors", "inputs", "outputs", "flops", "workspace_bytes")
        fields = Fields(obj, where, keys)
        tensors = fields.array("tensors", MAX_TENSORS)
        return cls(
            name=fields.text("name", r".+"),
            graph=fields.sha("graph"),
            graph_bytes=fields.integer("graph_bytes", low=2),
            tensors=tuple(TensorRef.from_json(t, f"{where}.tensors[{i}]") for i, t in enumerate(tensors)),
            inputs=read_values(fields, "inputs"),
            outputs=read_values(fields, "outputs"),
            flops=fields.integer("flops"),
            workspace_bytes=fields.integer("workspace_bytes", high=MAX_BYTES),
        )


@dataclass(frozen=True)
class DimRange:
    """Sizes a dynamic dimension may take, in the closed interval [min, max]; estimates assume `nominal`."""

    min: int
    max: int
    nominal: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"min": self.min, "max": self.max, "nominal": self.nominal}

    @classmethod
    def from_json(cls, obj: object, where: str = "dim") -> DimRange:
        """Read and check; `ManifestError` names the field at fault."""
        fields = Fields(obj, where, ("min", "max", "nominal"))
        low, high = fields.integer("min", low=1), fields.integer("max", low=1)
        if low > high:
            raise fields.bad("max", f"at least min, which is {low}")
        return cls(low, high, fields.integer("nominal", low, high))


@dataclass(frozen=True)
class Tolerance:
    """How far an answer `a` may be from the unsplit model's `b`: |a - b| <= atol + rtol * max|b|.

    The maximum is that of the item, a request's own part of a tensor: sums of many numbers are as exact as the largest
    of them, and one that happens to be close to zero is not more so. `atol` is for items of nothing but zeros.
    """

    rtol: float = 1e-4
    atol: float = 1e-5

    @classmethod
    def relative(cls, rtol: float) -> Tolerance:
        """Of a relative size, in (0, 1]; `atol` is a tenth of it, but never more than the default. `ConfigError`."""
        if not 0 < rtol <= 1:
            raise ConfigError(f"--tolerance must be above 0 and at most 1, not {rtol:g}")
        return cls(rtol, min(cls.atol, rtol / 10))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"rtol": self.rtol, "atol": self.atol}

    @classmethod
    def from_json(cls, obj: object, where: str = "tolerance") -> Tolerance:
        """Read and check; `ManifestError` names the field at fault."""
        fields = Fields(obj, where, ("rtol", "atol"))
        return cls(fields.number("rtol", 0.0, 1.0), fields.number("atol", 0.0, 1e9))
