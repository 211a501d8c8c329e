"""The child process that loads a cleaned `.pt2` archive: `python -I -m stageline_stage.importer.sandbox REQUEST`.

It gives up what it can before it reads the archive: new privileges, the network, root where it has it, long
computations and large files. It leaves blobs and a manifest in its folder; the parent checks both again.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import stat
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stageline.blobs import BlobStore
from stageline.errors import ModelError, ModelImportError
from stageline.manifest import DimRange, canonical_json
from stageline_stage.importer.assemble import import_program
from stageline_stage.importer.export import BATCH, MAX_BATCH, Signature, export_module
from stageline_stage.importer.naming import input_names

PR_SET_NO_NEW_PRIVS, CLONE_NEWNET, NOBODY = 38, 0x40000000, 65534
MAX_SEQUENCE, NOMINAL_SIZE = 4096, 128
CPU_SECONDS = 600
MEMORY_BYTES = 16 << 30


def main() -> None:
    """Do what the request file beside the archive says; write `manifest.json` or `error.json`."""
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _warm_up(folder)
    _drop_privileges(folder, request["max_file_bytes"])
    try:
        manifest = _import(folder, request["name"], request["source"])
        (folder / "manifest.json").write_bytes(canonical_json(manifest))
    except ModelError as error:
        (folder / "error.json").write_bytes(canonical_json({"code": error.code, "message": error.message}))


def _warm_up(folder: Path) -> None:
    """Import what export imports late, while the files can still be read."""
    example = Signature.batched({"input": torch.zeros(2, 2)})
    program = export_module(nn.Linear(2, 2), example)
    import_program(program, example.dynamic, example.dims, name="warm", store=BlobStore(folder / "warm"))
    torch.export.save(program, folder / "warm.pt2")
    torch.export.load(folder / "warm.pt2")


def _drop_privileges(folder: Path, max_file_bytes: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES + 8 * max_file_bytes,) * 2)
    if os.geteuid() != 0:
        return
    libc.unshare(CLONE_NEWNET)
    if all(_others_can_read(Path(path)) for path in (os.__file__, torch.__file__, __file__)):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _others_can_read(path: Path) -> bool:
    parents = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)
    return parents and bool(path.stat().st_mode & stat.S_IROTH)


def _import(folder: Path, name: str, source: str) -> dict[str, Any]:
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
            program = torch.export.load(folder / "clean.pt2")
    except Exception as error:  # torch's loader raises whatever it stumbles over
        raise ModelImportError(f"torch cannot load the .pt2 file ({type(error).__name__}): export it again") from error
    dynamic, dims = _dynamic(program)
    store = BlobStore(folder / "blobs")
    return import_program(program, dynamic, dims, name=name, store=store, source=source).to_json()


def _dynamic(program: torch.export.ExportedProgram) -> tuple[dict[str, dict[int, str]], dict[str, DimRange]]:
    """Name the dynamic sizes of an archive, which has lost their names: batch, sequence, then size2 …."""
    names: dict[Any, str] = {}
    dynamic: dict[str, dict[int, str]] = {}
    dims: dict[str, DimRange] = {}
    inputs = dict(zip(program.graph_signature.user_inputs, input_names(program), strict=True))
    for node in program.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if node.name not in inputs or not isinstance(value, torch.Tensor):
            continue
        for axis, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt):
                symbol = size.node.expr
                names.setdefault(symbol, _size_name(axis, value, set(names.values())))
                dynamic.setdefault(inputs[node.name], {})[axis] = names[symbol]
                dims[names[symbol]] = _range(program, symbol, is_batch=names[symbol] == "batch")
    return dynamic, dims or {"batch": BATCH}


def _size_name(axis: int, value: torch.Tensor, taken: set[str]) -> str:
    if axis == 0 and "batch" not in taken:
        return "batch"
    if axis == 1 and value.dim() == 2 and not value.is_floating_point() and "sequence" not in taken:
        return "sequence"
    return f"size{len(taken)}"


def _range(program: torch.export.ExportedProgram, symbol: Any, *, is_batch: bool) -> DimRange:
    limit = MAX_BATCH if is_batch else MAX_SEQUENCE
    constraint = program.range_constraints.get(symbol)
    low = max(1, int(constraint.lower)) if constraint is not None else 1
    high = min(int(constraint.upper), limit) if constraint is not None and constraint.upper < limit else limit
    return DimRange(low, max(low, high), min(max(low, 1 if is_batch else NOMINAL_SIZE), max(low, high)))


if __name__ == "__main__":
    main()
