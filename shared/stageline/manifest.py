"""What a model is to everyone but the importer: its signature, its chain of blocks, and the blobs they need.

A manifest is plain JSON (docs/model-format.md). `from_json` trusts nothing: whatever is malformed raises
`ManifestError` naming the field.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stageline.blocks import MAX_BYTES, BlockSpec, DimRange, TensorRef, Tolerance, ValueSpec, read_values
from stageline.errors import ManifestError
from stageline.fields import Fields

__all__ = ["BlockSpec", "DimRange", "ModelManifest", "TensorRef", "Tolerance", "ValueSpec", "canonical_json"]

FORMAT = 1
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
DIM_NAME = r"[a-z][a-z0-9_]{0,31}"
MAX_BLOCKS, MAX_DIMS = 4096, 16


def canonical_json(obj: object) -> bytes:
    """A JSON value's one byte form: sorted keys, no spaces, ASCII. NaN and infinity are a `ValueError`."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


@dataclass(frozen=True)
class ModelManifest:
    """A model as a chain of blocks. `ManifestError` when the parts do not fit together.

    `dims` are the dynamic dimensions ("batch", "sequence") and their ranges; `tolerance` is what the model
    declares acceptable against the unsplit model; `source` says to people where the model came from.
    """

    name: str
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    blocks: tuple[BlockSpec, ...]
    dims: Mapping[str, DimRange] = field(default_factory=dict)
    tolerance: Tolerance = field(default_factory=Tolerance)
    source: str = ""
    torch_version: str = ""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ManifestError("manifest.blocks must not be empty")
        if not re.fullmatch(MODEL_NAME, self.name):
            raise ManifestError(f"manifest.name must match {MODEL_NAME}; {self.name!r:.80} does not")
        if len({block.name for block in self.blocks}) != len(self.blocks):
            raise ManifestError("manifest.blocks must have distinct names")
        self._check_chain()
        for value in (v for block in self.blocks for v in block.inputs + block.outputs):
            if value.nbytes(self.nominal) > MAX_BYTES:
                raise ManifestError(f"value {value.name!r:.80} of the manifest takes more than 2**50 bytes")
        if self.weight_bytes > MAX_BYTES:
            raise ManifestError("the weights of the manifest take more than 2**50 bytes")

    def _check_chain(self) -> None:
        if self.blocks[0].inputs != self.inputs:
            raise ManifestError("manifest.blocks[0].inputs must equal the model's inputs")
        if self.blocks[-1].outputs != self.outputs:
            raise ManifestError("the last block's outputs must equal the model's outputs")
        for i in range(len(self.blocks) - 1):
            if self.blocks[i].outputs != self.blocks[i + 1].inputs:
                raise ManifestError(f"manifest.blocks[{i}].outputs must equal the inputs of the block after it")

    @property
    def nominal(self) -> dict[str, int]:
        """The sizes that estimates assume: one item, every other dimension nominal."""
        return {name: 1 if name == "batch" else dim.nominal for name, dim in self.dims.items()}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON without the name: equal models have equal digests."""
        content = {key: value for key, value in self.to_json().items() if key != "name"}
        return hashlib.sha256(canonical_json(content)).hexdigest()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the distinct tensors of the whole model."""
        return self.weight_bytes_of(0, len(self.blocks))

    def weight_bytes_of(self, start: int, end: int) -> int:
        """Bytes of the distinct tensors of blocks [start, end)."""
        return sum({t.sha256: t.nbytes for block in self.blocks[start:end] for t in block.tensors}.values())

    def cut_bytes(self, cut: int) -> int:
        """Bytes that cross cut number `cut` for one item at nominal sizes.

        Cut 0 is the model's input, cut i lies after block i - 1, cut `len(blocks)` is the model's output.
        """
        values = self.inputs if cut == 0 else self.blocks[cut - 1].outputs
        return sum(value.nbytes(self.nominal) for value in values)

    def blobs(self) -> dict[str, int]:
        """The size in bytes of every blob that the model needs, by SHA-256."""
        sizes = {block.graph: block.graph_bytes for block in self.blocks}
        sizes.update({t.sha256: t.blob_bytes for block in self.blocks for t in block.tensors})
        return sizes

    def describe(self) -> dict[str, Any]:
        """The model for people and scripts, as `stageline models show NAME --json` prints it."""
        return {
            "name": self.name,
            "digest": self.digest,
            "source": self.source,
            "weight_bytes": self.weight_bytes,
            "flops": sum(block.flops for block in self.blocks),
            "dims": {name: dim.to_json() for name, dim in self.dims.items()},
            "tolerance": self.tolerance.to_json(),
            "inputs": [_signature(value) for value in self.inputs],
            "outputs": [_signature(value) for value in self.outputs],
            "blocks": [
                {
                    "name": block.name,
                    "weight_bytes": block.weight_bytes,
                    "flops": block.flops,
                    "workspace_bytes": block.workspace_bytes,
                    "cut_bytes": self.cut_bytes(i + 1),
                    "tensors": len(block.tensors),
                }
                for i, block in enumerate(self.blocks)
            ],
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "format": self.format,
            "name": self.name,
            "inputs": [value.to_json() for value in self.inputs],
            "outputs": [value.to_json() for value in self.outputs],
            "blocks": [block.to_json() for block in self.blocks],
            "dims": {name: dim.to_json() for name, dim in self.dims.items()},
            "tolerance": self.tolerance.to_json(),
            "source": self.source,
            "torch_version": self.torch_version,
        }

    @classmethod
    def from_json(cls, obj: object) -> ModelManifest:
        """Read and check everything; `ManifestError` names the field at fault."""
        keys = (
            "format",
            "name",
            "inputs",
            "outputs",
            "blocks",
            "dims",
            "tolerance",
            "source",
            "torch_version",
        )
        version = obj.get("format") if isinstance(obj, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise ManifestError(f"manifest.format is {version}, but this Stageline reads up to {FORMAT}: upgrade it")
        fields = Fields(obj, "manifest", keys)
        dims = fields.mapping("dims", MAX_DIMS)
        for name in dims:
            if not re.fullmatch(DIM_NAME, name):
                raise fields.bad("dims", f"an object whose keys match {DIM_NAME}")
        blocks = fields.array("blocks", MAX_BLOCKS)
        return cls(
            name=fields.text("name", MODEL_NAME),
            inputs=read_values(fields, "inputs"),
            outputs=read_values(fields, "outputs"),
            blocks=tuple(BlockSpec.from_json(b, f"manifest.blocks[{i}]") for i, b in enumerate(blocks)),
            dims={name: DimRange.from_json(dim, f"manifest.dims.{name}") for name, dim in dims.items()},
            tolerance=Tolerance.from_json(fields.raw("tolerance"), "manifest.tolerance"),
            source=fields.text("source", max_length=1024),
            torch_version=fields.text("torch_version", max_length=64),
            format=fields.integer("format", FORMAT, FORMAT),
        )


def _signature(value: ValueSpec) -> dict[str, Any]:
    return {"name": value.name, "dtype": value.dtype, "shape": list(value.shape)}
