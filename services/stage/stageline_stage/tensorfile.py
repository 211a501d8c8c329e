"""One tensor as a safetensors file with the fixed key "tensor", laid out the same way every time.

Format: https://github.com/huggingface/safetensors (8-byte little-endian header length, JSON header, data). The
header is padded with spaces so that the data starts at a multiple of 64 bytes: a mapped weight then has the
alignment that torch's own allocator gives, and kernels that choose their path by alignment give the same bits.
"""

from __future__ import annotations

import json
import mmap
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from stageline.errors import BlobCorruptError
from stageline_stage.graph.codec import dtype_name

KEY = "tensor"
ALIGNMENT = 64
MOST_ELEMENTS = 1 << 50
"""torch multiplies the other sizes of an empty tensor in 64 bits."""

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_DTYPES: dict[str, torch.dtype] = {code: getattr(torch, name) for name, code in _CODES.items()}


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The file's bytes; equal tensors give equal bytes. `ManifestError` for a dtype outside the list."""
    data = tensor.detach().cpu().contiguous()
    nbytes = data.numel() * data.element_size()
    entry = {"dtype": _CODES[dtype_name(data.dtype)], "shape": list(data.shape), "data_offsets": [0, nbytes]}
    header = json.dumps({KEY: entry}, separators=(",", ":")).encode("ascii")
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    raw = data.reshape(-1).view(torch.uint8).numpy().tobytes() if nbytes else b""
    return len(header).to_bytes(8, "little") + header + raw


def load_tensor(path: Path) -> torch.Tensor:
    """The tensor in the file, memory-mapped; `BlobCorruptError` if the file is no such file.

    Nothing of it is resident before it is used, as that of a standby is not: safetensors' own mapping had all of it.
    """
    try:
        with safe_open(str(path), framework="numpy") as checked:
            names, entry = checked.keys(), checked.get_slice(KEY)
            dtype, shape = _DTYPES.get(entry.get_dtype()), tuple(entry.get_shape())
        with path.open("rb") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (SafetensorError, OSError, ValueError) as error:
        raise BlobCorruptError("a tensor file is not in safetensors form: fetch it again") from error
    if dtype is None or len(names) != 1:
        raise BlobCorruptError("a tensor file holds another dtype, or more than a tensor: fetch it again")
    if prod(size or 1 for size in shape) > MOST_ELEMENTS:
        raise BlobCorruptError("a tensor file holds no element of an enormous shape: fetch it again")
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(mapped, dtype=dtype, count=prod(shape), offset=begin).view(shape)
