"""Where compiled stages come from: the disk, or a child that makes them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from stageline.manifest import ModelManifest
from stageline.messages import Load
from stageline_stage.backends.artifacts import Artifacts, Report, key_of
from stageline_stage.backends.base import Backend
from stageline_stage.backends.job import Job, run
from stageline_stage.resources import available_bytes, cpu_features, cpu_name

COMPILING_BYTES, COMPILING_WEIGHTS = 512 << 20, 4
"""Free memory in which stages are compiled: so much, and their weights so many times."""

DISK_BYTES, DISK_WEIGHTS = 16 << 20, 2
"""Likewise of the disk."""


@dataclass(frozen=True)
class Found:
    """A compiled stage on disk, under `key`."""

    backend: Backend
    key: str
    report: Report


class Workshop:
    """Compiles for so many threads."""

    def __init__(self, artifacts: Artifacts, threads: int) -> None:
        self._artifacts, self._threads = artifacts, threads

    def obtain(
        self, message: Load, manifest: ModelManifest, backend: Backend, precision: str, wake: int
    ) -> Found | str:
        """The stage, compiled and checked now or before; or why there is none. Raises as `job.run` does."""
        key = key_for(message, manifest, backend, precision)
        failure = self._artifacts.failure(key)
        if failure:
            return f"{failure} (tried before)"
        report = self._artifacts.get(key)
        if report is not None:
            return Found(backend, key, report)
        weights = manifest.weight_bytes_of(message.stage.start, message.stage.end)
        if available_bytes() < COMPILING_BYTES + COMPILING_WEIGHTS * weights:
            return "there is too little memory to compile in"
        if not self._artifacts.room_for(DISK_BYTES + DISK_WEIGHTS * weights):
            return "there is too little room on the disk, or cache_max_bytes is too small"
        made = self._artifacts.begin()
        try:
            got = run(self._job(message, backend, precision, made), wake)
            if isinstance(got, Report):
                return Found(backend, key, self._artifacts.put(key, made, got))
        finally:
            shutil.rmtree(made, ignore_errors=True)
        if got.lasting:
            self._artifacts.fail(key, got.reason)
        return got.reason

    def _job(self, message: Load, backend: Backend, precision: str, made: Path) -> Job:
        return Job(
            backend=backend.name,
            precision=precision,
            manifest=message.manifest,
            start=message.stage.start,
            end=message.stage.end,
            graphs=message.graphs,
            tensors=message.tensors,
            folder=str(made),
            threads=self._threads,
            parent=os.getpid(),
        )


def key_for(message: Load, manifest: ModelManifest, backend: Backend, precision: str) -> str:
    """The name of the compiled stage: of all that it and its check depend on. Graphs name their weights by SHA-256."""
    first, last = manifest.blocks[message.stage.start], manifest.blocks[message.stage.end - 1]
    return key_of(
        graphs=[Path(name).name for name in message.graphs],
        inputs=[value.to_json() for value in first.inputs],
        outputs=[value.to_json() for value in last.outputs],
        dims={name: dim.to_json() for name, dim in manifest.dims.items()},
        tolerance=manifest.tolerance.to_json(),
        backend=backend.name,
        version=backend.version(),
        precision=precision,
        cpu=[cpu_name(), *cpu_features()],
    )
