from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stageline.dtypes import ITEMSIZE
from stageline.errors import BlobCorruptError
from stageline_stage.executor.tensors import DTYPES
from stageline_stage.tensorfile import ALIGNMENT, load_tensor, tensor_bytes


def resident_kb(path: Path) -> int:
    """Of this process's mappings of the file."""
    found, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.split(" ", 1)[0].count("-") == 1 and not line.split(" ", 1)[0].endswith(":"):
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def test_a_weight_takes_memory_when_it_is_used_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "weight"
    path.write_bytes(tensor_bytes(torch.ones(512, 512)))
    weight = load_tensor(path)
    before = resident_kb(path)
    assert weight.sum() == 512 * 512
    assert before < 256 and resident_kb(path) >= 1024


@pytest.mark.parametrize("dtype", ITEMSIZE)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
def test_what_is_written_is_read(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    path, sent = tmp_path / "tensor", (torch.arange(6).float() + 1)[: max(1, torch.Size(shape).numel())]
    sent = (sent if 0 not in shape else sent[:0]).reshape(shape).to(DTYPES[dtype])
    path.write_bytes(tensor_bytes(sent))
    got = load_tensor(path)
    assert got.dtype == sent.dtype and got.shape == sent.shape and torch.equal(got, sent)
    assert not got.numel() or got.data_ptr() % ALIGNMENT == 0


def test_writing_to_it_changes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "tensor"
    path.write_bytes(tensor_bytes(torch.zeros(4)))
    load_tensor(path).fill_(1.0)
    assert load_tensor(path).tolist() == [0.0] * 4


def file_of(**entries: tuple[str, list[int], int, int]) -> bytes:
    header = {n: {"dtype": d, "shape": s, "data_offsets": [b, e]} for n, (d, s, b, e) in entries.items()}
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + bytes(max(e for *_, e in entries.values()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing of the kind",
        tensor_bytes(torch.zeros(4))[:-1],
        file_of(tensor=("F8_E4M3", [4], 0, 4)),
        file_of(other=("F32", [1], 0, 4)),
        file_of(other=("F32", [1], 0, 4), tensor=("F32", [1], 4, 8)),
        file_of(tensor=("F32", [2], 0, 4)),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tensor"
    path.write_bytes(data)
    with pytest.raises(BlobCorruptError, match="fetch it again"):
        load_tensor(path)
