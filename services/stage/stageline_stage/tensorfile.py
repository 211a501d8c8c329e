"""One tensor as a safetensors file with the fixed key "tensor", laid out the same way every time.

Format: https://github.com/huggingface/safetensors (8-byte little-endian header length, JSON header, data). The
header is padded with spaces so that the data starts at a multiple of 64 bytes: a mapped weight then has the
alignment that torch's own allocator gives, and kernels that choose their path by alignment give the same bits.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from stageline.errors import BlobCorruptError
from stageline_stage.graph.codec import dtype_name

KEY = "tensor"
ALIGNMENT = 64
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
    """The tensor in the file, memory-mapped; `BlobCorruptError` if the file is no such file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(KEY)
            return tensor
    except (SafetensorError, OSError, ValueError) as error:
        raise BlobCorruptError("a tensor file is not in safetensors form: fetch it again") from error
