"""Models, inputs and the unsplit models' answers, made by a child process that has torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stageline.blobs import BlobStore
from stageline.catalogue import Report, parse_manifest
from stageline.demo.judge import Floats, Judge
from stageline.errors import ConfigError, ModelImportError
from stageline.manifest import ModelManifest

MODULE = "stageline_stage.demo"
STOP_S = 10.0


@dataclass(frozen=True)
class Subject:
    """A model, its inputs and what the unsplit model answers to each at batch 1.

    `shift` is how far the unsplit model's own answers move in a larger batch: the largest absolute difference.
    """

    manifest: ModelManifest
    inputs: Floats
    reference: Floats
    shift: float

    @property
    def judge(self) -> Judge:
        """Compares within the model's own tolerance."""
        tolerance = self.manifest.tolerance
        return Judge(self.reference, rtol=tolerance.rtol, atol=tolerance.atol)


@dataclass(frozen=True)
class Prepared:
    """All that the demo needs beside the cluster."""

    subjects: dict[str, Subject]
    labels: list[int]
    blobs: BlobStore
    torch: str


def prepare(directory: Path, cache: Path, images: int, progress: Report) -> Prepared:
    """Run the child and read what it wrote.

    Raises `ConfigError` when torch is not installed, `ModelImportError` when the child fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "STAGELINE_DEMO_CACHE": str(cache)}
    command = [sys.executable, "-m", MODULE, str(directory), str(images)]
    with (directory / "prepare.log").open("w+b") as log:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=environ)
        with _ended(child):
            for line in child.stdout or ():
                step = json.loads(line)
                progress(step["step"], step["fraction"])
            code = child.wait()
        if code != 0:
            log.seek(0)
            raise _failure(log.read().decode(errors="replace"))
    return _read(directory)


@contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """However the block ends, the child does not outlive it."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _failure(log: str) -> ConfigError | ModelImportError:
    lines = log.strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    if last.startswith("ModuleNotFoundError"):
        return ConfigError(f"the demo needs the importer ({last}): pip install 'stageline[import]'")
    return ModelImportError(f"preparing the demo's models failed: {last}")


def _read(directory: Path) -> Prepared:
    subjects = {}
    facts = json.loads((directory / "facts.json").read_text())
    for name in ("digits", "resnet50"):
        subjects[name] = Subject(
            manifest=parse_manifest((directory / f"{name}.json").read_bytes()),
            inputs=np.load(directory / f"{name}-inputs.npy", allow_pickle=False),
            reference=np.load(directory / f"{name}-reference.npy", allow_pickle=False),
            shift=facts["shift"][name],
        )
    labels = [int(label) for label in np.load(directory / "digits-labels.npy", allow_pickle=False)]
    return Prepared(subjects, labels, BlobStore(directory / "blobs"), facts["torch"])
