"""A Docker engine whose containers are processes: everything but the walls of a container is real."""

from __future__ import annotations

import io
import os
import select
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stageline.blobs import BlobStore
from stageline.errors import ModelImportError
from stageline.importjob.engine import STDERR, STDOUT, Recipe
from stageline.manifest import BlockSpec, DimRange, ModelManifest, TensorRef, ValueSpec

JOB = ("-m", "stageline_stage.importjob")


class Box:
    """One of them."""

    def __init__(self, folder: Path, command: Sequence[str], environment: dict[str, str]) -> None:
        self._folder = folder
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(
            [sys.executable, *command, str(folder)], stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=folder
        )
        assert self.child.stdin and self.child.stdout and self.child.stderr
        self.stdin, self._out, self._err = self.child.stdin, self.child.stdout, self.child.stderr

    def put(self, pieces: Iterator[bytes]) -> None:
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
            assert {(one.uid, one.mode) for one in archive} <= {(0, 0o755), (0, 0o644)}, "root's, for all to read"
            archive.extractall(self._folder, filter="data")

    def fetch(self, path: str) -> Iterator[bytes]:
        if not (self._folder / path).exists():
            raise ModelImportError(f"the import left no {path}")
        into = io.BytesIO()
        with tarfile.open(fileobj=into, mode="w") as archive:
            archive.add(self._folder / path, Path(path).name)
        data = into.getvalue()
        yield from (data[i : i + 1000] for i in range(0, len(data), 1000))

    def say(self, line: bytes) -> None:
        self.stdin.write(line)
        self.stdin.flush()

    def hears(self) -> Iterator[tuple[int, bytes]]:
        pipes = {self._out.fileno(): STDOUT, self._err.fileno(): STDERR}
        while pipes:
            ready, _, _ = select.select(list(pipes), [], [], 60)
            assert ready, "nothing is said any more"
            for one in ready:
                if data := os.read(one, 1 << 16):
                    yield pipes[one], data
                else:
                    del pipes[one]

    def close(self) -> None:
        for pipe in (self.stdin, self._out, self._err):
            pipe.close()
        self.child.wait(60)


class Engine:
    """`command`: what runs in a container; its folder is the last argument."""

    architecture = "amd64"
    memory_bytes = 4 << 30

    def __init__(self, folder: Path, command: Sequence[str] = JOB, image: str = "amd64") -> None:
        self._folder, self._command, self._image = folder, command, image
        self.recipes: list[Recipe] = []
        self.boxes: list[Box] = []

    def image_architecture(self, name: str) -> str:
        return self._image

    def collect(self) -> list[str]:
        return []

    @contextmanager
    def container(self, recipe: Recipe) -> Iterator[Box]:
        self.recipes.append(recipe)
        folder = self._folder / f"box-{len(self.recipes)}"
        folder.mkdir()
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        box = Box(folder, self._command, {**kept, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)})
        self.boxes.append(box)
        try:
            yield box
        finally:
            box.close()


def small(folder: Path, name: str = "net") -> ModelManifest:
    """A model of one block, with its blobs in that store."""
    store = BlobStore(folder)
    x = ValueSpec("x", "float32", ("batch", 4))
    weights, graph = b"weights!" * 1000, b"graph"
    tensor = TensorRef("w", store.put_bytes(weights), "float32", (2000,), 8000, len(weights))
    block = BlockSpec("b", store.put_bytes(graph), len(graph), (tensor,), (x,), (x,), 1, 1)
    return ModelManifest(name, (x,), (x,), (block,), {"batch": DimRange(1, 8, 1)})
