"""What is fuzzed of files: tensors that an import or a worker reads, and the journal that a gateway finds."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import seeds
import torch

from stageline import protocol
from stageline.blobs import BlobStore
from stageline.errors import InvalidInputError
from stageline.manifest import ModelManifest, TensorRef
from stageline.messages import Load
from stageline.plan import StageKey
from stageline.wire import encode
from stageline_gateway import journal_format
from stageline_gateway.journal_file import NAME, Entry, JournalFile
from stageline_gateway.journal_format import Ended, Record, Taken
from stageline_stage.executor.stages import Stages
from stageline_stage.graph import codec
from stageline_stage.importer import pt2
from stageline_stage.tensorfile import load_tensor, tensor_bytes


@functools.cache
def scratch() -> Path:
    """A directory, in memory where there is one, that goes with the process."""
    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(prefix="stageline-fuzz-", dir=memory if memory.is_dir() else None)
    atexit.register(folder.cleanup)
    return Path(folder.name)


def tensor_file(data: bytes) -> None:
    """A worker reads a tensor whose bytes are those that its maker wanted them to be.

    One time of four an import takes it over before, from a sandbox that may write anything under the right hash, with
    a manifest that says what the file does, or something else.
    """
    folder = scratch() / "import"
    folder.mkdir(exist_ok=True)
    path, again = folder / "tensor", folder / "again"
    path.write_bytes(data)
    tensor = load_tensor(path)
    assert tensor.nbytes <= len(data), "it is mapped, and lies in the file"
    again.write_bytes(tensor_bytes(tensor))
    assert load_tensor(again).view(-1).view(torch.uint8).equal(tensor.view(-1).view(torch.uint8))
    if sum(data) % 8 < 2:  # these write many files
        _imported(folder, data, tensor if sum(data) % 8 else torch.zeros(2, 3))


def _imported(folder: Path, data: bytes, claimed: torch.Tensor) -> None:
    """A model of one block that adds the tensor is taken over, and loaded."""
    for name in ("blobs", "store"):
        shutil.rmtree(folder / name, ignore_errors=True)
    made, store = BlobStore(folder / "blobs"), BlobStore(folder / "store")
    tensor = TensorRef(
        "w", made.put_bytes(data), codec.dtype_name(claimed.dtype), tuple(claimed.shape), claimed.nbytes, len(data)
    )
    ref = codec.Ref
    calls = (codec.Call("y", "aten.add.Tensor", (ref("x"), ref("w")), {}),)
    graph = codec.encode(codec.BlockGraph(("x",), ("y",), calls, {"w": tensor.sha256}))
    like = seeds.model()
    block = replace(
        like.blocks[0], graph=made.put_bytes(graph), graph_bytes=len(graph), tensors=(tensor,), inputs=like.inputs,
        outputs=like.outputs,
    )  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(replace(like, blocks=(block,)).to_json()))
    _loaded(store, pt2.adopt(folder, store))


def _loaded(store: BlobStore, manifest: ModelManifest) -> None:
    (block,) = manifest.blocks
    key = StageKey(manifest.digest, 0, 1)
    stages = Stages(torch.device("cpu"))
    tensors = {one.sha256: str(store.path(one.sha256)) for one in block.tensors}
    stages.load(Load(stage=key, graphs=(str(store.path(block.graph)),), tensors=tensors))
    assert stages.get(key) is not None


def journal(data: bytes) -> None:
    """A gateway starts where a journal lies; one time of eight it writes to it, and reads it once more."""
    salt = journal_format.salt_of(data)
    contents = journal_format.read(data, salt)
    assert contents.end <= max(len(data), journal_format.HEAD.size)
    for span in contents.index.spans():
        again = journal_format.span_at(data, span.start, salt)
        assert again is not None
        assert (again.end, encode(again.record)) == (span.end, encode(span.record))
        _cut(span.record, data[span.body_at])
    if sum(data) % 8 == 0:  # syncs files
        folder = scratch() / "journal"
        folder.mkdir(exist_ok=True)
        (folder / NAME).write_bytes(data)
        first = _requests(folder, seeds.TAKEN)
        assert _requests(folder) == first, "what it read is what it wrote"


def _requests(folder: Path, *new: Entry) -> dict[int, bytes]:
    """What a restarted gateway takes over, and what is then added to it."""
    file = JournalFile(folder)
    try:
        file.append(new)
        found = file.contents.index
        for span in (*found.taken.values(), *found.ended.values()):
            body = file.body(span)
            assert body is not None
            _cut(span.record, body)
        return {number: encode(span.record) for number, span in found.taken.items()}
    finally:
        file.close()


def _cut(record: Record, body: bytes) -> None:
    specs: tuple[protocol.TensorSpec, ...] = ()
    if isinstance(record, Taken):
        specs = record.infer.inputs
    elif isinstance(record, Ended) and record.result is not None:
        specs = record.result.outputs
    try:
        protocol.split_body(specs, memoryview(body))
    except InvalidInputError:
        return  # it is told, and left out
